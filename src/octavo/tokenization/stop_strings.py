"""Finding the texts that end a sequence, while its text arrives in pieces."""

from collections.abc import Sequence


class StopChecker:
    """Passes text through, holding back no more of its end than could begin a stop.

    The stop that is complete first in the text ends it; of those complete at the same character, the longest. So the
    result does not depend on how the text was cut into pieces, and no text past the match is ever needed.
    A character costs a few operations for each stop (Knuth, Morris and Pratt, 1977), whatever came before it.

    Args:
        stops: texts to look for, none of them empty.
        include: end the text after the match instead of before it.
    """

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._patterns = [(stop, _borders(stop)) for stop in stops]
        self._includes_stop = include
        self._num_matched = [0] * len(stops)
        self._held = ""

    def push(self, text: str, may_end: bool = True) -> tuple[str, str | None]:
        """Take the next piece of text, none after a match.

        Args:
            may_end: a stop that is complete within this piece counts; one that only begins here always may, later.

        Returns:
            The text that is safe to pass on now, and the stop that ended it or None.
        """
        if not self._patterns:
            return text, None
        for index, character in enumerate(text):
            stop = self._advance(character)
            if stop is not None and may_end:
                seen = self._held + text[: index + 1]
                self._held = ""
                return (seen if self._includes_stop else seen[: -len(stop)]), stop
        seen = self._held + text
        num_safe = len(seen) - max(self._num_matched)
        self._held = seen[num_safe:]
        return seen[:num_safe], None

    def finish(self) -> str:
        """Release what was held back: no more text is coming, so it begins no stop."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Take one character; returns the longest stop that it completes."""
        completed: list[str] = []
        for index, (stop, borders) in enumerate(self._patterns):
            matched = self._num_matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            matched += stop[matched] == character
            if matched == len(stop):
                completed.append(stop)
                matched = borders[matched - 1]
            self._num_matched[index] = matched
        return max(completed, key=len, default=None)


def _borders(stop: str) -> tuple[int, ...]:
    """For each prefix of the stop, the longest shorter prefix that ends it: where matching goes on after a miss."""
    borders = [0]
    matched = 0
    for character in stop[1:]:
        while matched and stop[matched] != character:
            matched = borders[matched - 1]
        matched += stop[matched] == character
        borders.append(matched)
    return tuple(borders)
