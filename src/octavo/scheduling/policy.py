"""In which order requests are served (`--scheduling-policy`)."""

from dataclasses import dataclass

from octavo.config import SchedulingPolicy


@dataclass(frozen=True, slots=True)
class Policy:
    """Gives each request a rank, once: the lowest is admitted first, gets a step's tokens first and is preempted last.
    Requests of one rank are served in order of arrival.

    `fcfs` ranks all alike. `shortest-first` ranks a request by its arrival, set back in proportion to its prompt: one
    of the model's length by `overtaking_s`. So a prompt lets shorter ones pass that come up to that much later, and
    none that comes after. That is also the bound on starvation: a request waits for those before it and for the
    shorter ones of its time window, however many come later.
    """

    name: SchedulingPolicy = "fcfs"
    overtaking_s: float = 0.0
    longest: int = 1
    """The model's length in tokens."""

    def rank(self, arrival_s: float, num_prompt_tokens: int) -> float:
        """A request's rank; under `shortest-first` in seconds of `time.monotonic()`."""
        if self.name == "fcfs":
            return 0.0
        return arrival_s + self.overtaking_s * num_prompt_tokens / self.longest
