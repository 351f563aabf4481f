"""What the tests' own drafters have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from octavo.execution.plan import Plan
from octavo.execution.row_tables import RowTables


class RowDrafter(ABC):
    """A drafter that goes by each row's tokens alone: it follows no plan and learns no cost."""

    def follow(self, plan: Plan) -> None:  # noqa: B027 (there is nothing to do)
        pass

    def learn(self, num_rows: int, num_drafts: int, seconds: float) -> None:  # noqa: B027
        pass

    def propose(self, rows: Sequence[int], tables: RowTables) -> list[list[int]]:
        return [self.guess(tables.all_token_ids(row).tolist()) for row in rows]

    @abstractmethod
    def guess(self, token_ids: list[int]) -> list[int]:
        """What follows a row's tokens."""
