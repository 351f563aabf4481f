"""How long a call takes, on a machine that does other things too."""

import statistics
import time
from collections.abc import Callable

FEWEST_CALLS = 5
PATIENCE = 4


def seconds_of(call: Callable[[], object], at_least_s: float) -> list[float]:
    """Times of single calls, after one that is not counted.

    `FEWEST_CALLS` and `at_least_s` seconds together at the least; of slow calls as many as begin in `PATIENCE` times
    that.
    """
    call()
    seconds: list[float] = []
    total = 0.0
    while total < at_least_s or (len(seconds) < FEWEST_CALLS and total < PATIENCE * at_least_s):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        total += seconds[-1]
    return seconds


def median_s(call: Callable[[], object], at_least_s: float) -> float:
    """The median of `seconds_of`: what to expect."""
    return statistics.median(seconds_of(call, at_least_s))


def shortest_s(call: Callable[[], object], at_least_s: float) -> float:
    """The shortest of `seconds_of`: what the machine can do."""
    return min(seconds_of(call, at_least_s))
