"""Where time goes in work that is done over and over."""

import time


class Stopwatch:
    """Adds up the seconds of each part of the work. A part lasts from the last `start` or `lap` to the `lap` that names
    it; a lap costs a fraction of a microsecond."""

    def __init__(self, *parts: str) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        """By part, since the beginning."""
        self._since = time.perf_counter()

    def start(self) -> float:
        """What was done since the last lap is no part of the work. Returns the time, of `time.perf_counter()`."""
        self._since = time.perf_counter()
        return self._since

    def lap(self, part: str) -> float:
        """A part ends, and the next begins. Returns the time, as `start` does."""
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now
        return now
