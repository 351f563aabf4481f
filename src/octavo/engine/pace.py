"""How fast waiting requests begin, and so how long one more would wait."""

import math

MEMORY_S = 30.0
"""Seconds of waiting after which what was learned counts for 1/e."""


class AdmissionPace:
    """Learns from what the engine reports, while somebody waits: then as many begin as the engine is able to serve. The
    times in which nobody waits tell only how many came.

    The estimate is the number of those who go first, by the mean time between two that began lately. It takes the
    requests of the near future to be like those of the near past, and is wrong by as much as they differ.
    """

    def __init__(self) -> None:
        self._num_begun = 0.0
        self._seconds = 0.0
        self._reported = (0, 0, 0.0)
        """The last report: how many had begun, how many waited, and when."""

    def learn(self, num_begun: int, num_waiting: int, now_s: float) -> None:
        """Take a report.

        Args:
            num_begun: requests that have begun since the engine's start.
            num_waiting: requests that wait.
            now_s: of any steady clock.
        """
        begun_before, waited_before, before_s = self._reported
        if waited_before:
            decay = math.exp((before_s - now_s) / MEMORY_S)
            self._num_begun = decay * self._num_begun + num_begun - begun_before
            self._seconds = decay * self._seconds + now_s - before_s
        self._reported = (num_begun, num_waiting, now_s)

    def wait_s(self, num_before: int, now_s: float) -> float:
        """Seconds until a request begins that waits behind `num_before` others. While none is known to have begun it is
        the time for which they have waited in vain: it may take as long again."""
        if num_before <= 0:
            return 0.0
        _, num_waiting, before_s = self._reported
        seconds = self._seconds + (now_s - before_s if num_waiting else 0.0)
        return seconds if self._num_begun < 1 else num_before * seconds / self._num_begun
