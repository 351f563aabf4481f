"""Several texts streaming to one terminal: each by whole lines behind its own label, or a single one as it comes."""

import shutil
from typing import TextIO


class StreamPrinter:
    """Prints texts that grow side by side.

    Args:
        labels: one for each stream, by its key; where there is just one stream it is printed bare, as it comes.
        out: where to.
    """

    def __init__(self, labels: dict[tuple[int, int], str], out: TextIO) -> None:
        self._labels = labels
        self._out = out
        self._held = dict.fromkeys(labels, "")
        width = max(map(len, labels.values()))
        self._prefixes = {key: f"{label:<{width}} │ " for key, label in labels.items()}
        self._width = max(40, shutil.get_terminal_size((100, 24)).columns - width - 3)

    def add(self, key: tuple[int, int], text: str, finished: bool) -> None:
        """Take new text of a stream; a line is printed once it is whole, or as long as the terminal is wide."""
        if len(self._labels) == 1:
            self._out.write(text + ("\n" if finished else ""))
            self._out.flush()
            return
        held = self._held[key] + text
        while (cut := self._line_end(held)) is not None:
            self._print(key, held[:cut])
            held = held[cut:].lstrip(" ") if cut < len(held) and held[cut] != "\n" else held[cut + 1 :]
        if finished and held:
            self._print(key, held)
            held = ""
        self._held[key] = held

    def _line_end(self, text: str) -> int | None:
        """Where the first whole line ends: at a line break, or at the last space before the terminal's edge."""
        newline = text.find("\n", 0, self._width + 1)
        if newline >= 0:
            return newline
        if len(text) <= self._width:
            return None
        space = text.rfind(" ", 1, self._width)
        return space if space > 0 else self._width

    def _print(self, key: tuple[int, int], line: str) -> None:
        print(self._prefixes[key] + line, file=self._out, flush=True)
