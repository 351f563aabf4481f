"""Row ids, the small numbers under which the runner knows sequences, and what it is still to be told of them."""

from octavo.execution.plan import ForkedRow, Plan

NO_ROW = -1


class Rows:
    """Hands out the numbers 0, 1, 2 …, those given back first, so that the runner's arrays stay as small as the
    sequences alive; and keeps what happens to rows between two plans for the next one."""

    def __init__(self) -> None:
        self.plan = Plan()
        """The next one, as far as it is known."""
        self._free: list[int] = []
        self._next = 0
        self._forked: dict[int, ForkedRow] = {}
        self._chosen: dict[int, int] = {}

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def give_back(self, row: int) -> None:
        """The row's sequence is over."""
        self._chosen.pop(row, None)
        if self._forked.pop(row, None) is None:
            self.plan.removed.append(row)
        self._free.append(row)

    def fork(self, parent: int, index: int) -> int:
        """A row with `parent`'s tokens, before the next that is chosen for it, for sequence `index`."""
        row = self.take()
        self._forked[row] = ForkedRow(row, parent, index)
        return row

    def choose(self, row: int, token_id: int) -> None:
        """The row's next token."""
        self._chosen[row] = token_id

    def begin_plan(self) -> Plan:
        """A plan with all that has happened since the last one."""
        plan, self.plan = self.plan, Plan()
        plan.forked[:0] = self._forked.values()
        plan.chosen += self._chosen.items()
        self._forked, self._chosen = {}, {}
        return plan

    def forget_changes(self) -> None:
        """Of what has happened since the last plan the next one is to tell only whose sequence is over."""
        self.plan = Plan(removed=self.plan.removed)
        self._forked, self._chosen = {}, {}
