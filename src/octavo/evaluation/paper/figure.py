"""What a figure of the paper is here."""

from typing import Any, Protocol

import msgspec

from octavo.evaluation.paper.claims import Claim


class Job(msgspec.Struct, frozen=True):
    """A part of a figure that can run beside others."""

    key: str
    """Within the figure."""
    arguments: tuple[Any, ...] = ()
    is_measured: bool = False
    """It takes times on this machine, for which nothing else may run."""


class PaperFigure(Protocol):
    """One figure or table."""

    name: str
    """As `--figures` calls it, and its files are called."""
    title: str

    def jobs(self, quick: bool) -> list[Job]:
        """What is to be run."""
        ...

    def run(self, job: Job) -> Any:
        """Run a part, in whatever process. What it returns is written as JSON."""
        ...

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        """What the paper says of it, beside what came out.

        Args:
            results: what JSON has of each job, by its key.
        """
        ...

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        """Draw it, the paper's values beside ours.

        Args:
            figure: matplotlib's.
        """
        ...
