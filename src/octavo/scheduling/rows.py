"""Row ids: the small numbers under which the runner knows sequences."""


class RowIds:
    """Hands out the numbers 0, 1, 2 …, those given back first, so that the runner's arrays stay as small as the
    sequences alive."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 0

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def give_back(self, row: int) -> None:
        self._free.append(row)
