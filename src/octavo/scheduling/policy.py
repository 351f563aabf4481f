"""In which order requests are served, and whether in batches (`--scheduling-policy`)."""

from dataclasses import dataclass

from octavo.config import SchedulingPolicy
from octavo.errors import RequestError

MAX_PRIORITY = 2**53
"""Priorities lie between this and its negative: ranks tell all of them apart."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Gives each request a rank, once: the lowest is admitted first, gets a step's tokens first and is preempted last.
    Requests of one rank are served in order of arrival.

    `fcfs` ranks all alike. `shortest-first` ranks a request by its arrival, set back in proportion to its prompt: one
    of the model's length by `overtaking_s`. So a prompt lets shorter ones pass that come up to that much later, and
    none that comes after. That is also the bound on starvation: a request waits for those before it and for the
    shorter ones of its time window, however many come later. `priority` ranks by the number that a request brings, 0
    where it brings none. That has no such bound: a request waits while lower numbers keep coming.

    `static` is the paper's FasterTransformer baseline (section 6.1): ranks as under `fcfs`, and static batches. A batch
    is what waits while nobody runs, as many as fit by number and by memory; nobody joins it before all of it is over.
    Its answers stream as they come, and nobody takes the places that they free. What is over is not computed any more.
    That favours the baseline: the original computes all sequences to the end of the longest.
    """

    name: SchedulingPolicy = "fcfs"
    overtaking_s: float = 0.0
    longest: int = 1
    """The model's length in tokens."""

    @property
    def is_static(self) -> bool:
        """Whether requests run in batches that nobody joins."""
        return self.name == "static"

    def rank(self, arrival_s: float, num_prompt_tokens: int, priority: int = 0) -> float:
        """A request's rank; under `shortest-first` in seconds of `time.monotonic()`."""
        if self.name in ("fcfs", "static"):
            return 0.0
        if self.name == "priority":
            return float(priority)
        return arrival_s + self.overtaking_s * num_prompt_tokens / self.longest


def check_priority(priority: int, policy: SchedulingPolicy) -> None:
    """Refuse a request's priority that would change nothing, or that is none.

    Raises:
        RequestError: the message names the flag.
    """
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MAX_PRIORITY:
        raise RequestError(f"priority must be a whole number of -2^53 to 2^53, the lowest first, got {priority!r:.40}")
    if priority and policy != "priority":
        raise RequestError(
            f"priority is {priority}, and requests are served by --scheduling-policy {policy}: leave it out, or set "
            "--scheduling-policy priority"
        )
