"""The highest rate of requests at which latencies stay within their targets."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from octavo.evaluation.simulator.tally import ReplayFigures, Tally

RESOLUTION = 1.04
"""Between the highest rate that is sustained and the lowest that is not, at the most."""
STEP = 2.0
"""Between rates while none is known that is sustained, or none that is not."""
LOWEST, HIGHEST = 2.0**-10, 2.0**20
HOPELESS = 2.0
"""Times a target that a latency is over, of the requests so far, where a replay is given up."""
JUDGED = 0.1
"""Share of the requests from which on it is judged so."""


class Targets(msgspec.Struct, frozen=True):
    """Seconds that latencies may take; None is as long as they like."""

    normalized_latency: float | None = None
    """Mean over requests (paper, section 6.1)."""
    first_token: float | None = None
    """Of nine requests in ten."""
    token: float | None = None
    """The same, between the tokens of an answer."""

    @property
    def told(self) -> str:
        """In words."""
        told = (
            ("a normalized latency of at most {:g} s on average", self.normalized_latency),
            ("a first token within {:g} s for nine in ten", self.first_token),
            ("at most {:g} s between tokens for nine in ten", self.token),
        )
        return " and ".join(text.format(seconds) for text, seconds in told if seconds is not None)

    def excess(self, tally: Tally) -> float:
        """How many times its target the latency is that is the furthest from it."""
        told = (
            (tally.normalized.mean, self.normalized_latency),
            (tally.first_token.quantile(0.9), self.first_token),
            (tally.token.quantile(0.9), self.token),
        )
        return max((seconds / target for seconds, target in told if target is not None), default=0.0)


class Tried(msgspec.Struct, frozen=True):
    """A rate, and how the requests were served at it."""

    rate: float
    is_sustained: bool
    is_given_up: bool
    """Targets were missed by so far that no more requests were served: latencies would have grown further."""
    figures: ReplayFigures


Serve = Callable[[float, Callable[[Tally], bool]], Tally]
"""Serves requests at a rate until it is told to give up."""


def sustained_rates(
    serve: Serve,
    targets: Targets,
    num_requests: Callable[[float], float],
    first: float = 1.0,
    resolution: float = RESOLUTION,
    step: float = STEP,
) -> Iterator[Tried]:
    """Try rates until two are known that are close, of which one is sustained and the other is not.

    Args:
        num_requests: that are served at a rate.
        first: the rate to begin with.
        resolution: between those two.
        step: between rates until then.
    """
    low, high, rate = 0.0, math.inf, first
    while LOWEST <= rate <= HIGHEST and high > low * resolution:
        judge = _Judge(targets, int(JUDGED * num_requests(rate)))
        tally = serve(rate, judge.is_hopeless)
        figures = tally.figures()
        is_sustained = targets.excess(tally) <= 1 and not (figures.refused or figures.cut_short)
        yield Tried(rate, is_sustained, judge.has_given_up, figures)
        if is_sustained:
            low = rate
        else:
            high = rate
        if not low:
            rate = high / step
        elif math.isinf(high):
            rate = low * step
        else:
            rate = math.sqrt(low * high)


@dataclass(slots=True)
class _Judge:
    """Asks of each answer whether it and those before it miss the targets by far."""

    targets: Targets
    num_judged: int
    """Answers that are not asked of, or have been."""
    has_given_up: bool = False

    def is_hopeless(self, tally: Tally) -> bool:
        if tally.latency.count <= self.num_judged:
            return False
        self.num_judged = tally.latency.count
        is_hopeless = self.targets.excess(tally) > HOPELESS
        self.has_given_up |= is_hopeless
        return is_hopeless


def best(tried: list[Tried]) -> Tried | None:
    """The highest sustained rate; None where none is."""
    return max((each for each in tried if each.is_sustained), key=lambda each: each.rate, default=None)
