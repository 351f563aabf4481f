"""What the paper says in figures, and what came out here."""

import msgspec


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the paper's, or a range."""

    figure: str
    text: str
    unit: str = ""
    low: float
    """The paper's figure, or the least of its range."""
    high: float
    """The same as `low`, or the most of its range."""
    slack: float = 0.0
    """How far from these it may be, for the claim to hold: in the same unit."""
    simulated: float | None = None
    measured: float | None = None
    note: str = ""
    """Why it is another, where it is."""

    def holds(self, value: float | None) -> bool | None:
        """Whether a value is within the claim; None where there is none."""
        return None if value is None else self.low - self.slack <= value <= self.high + self.slack

    @property
    def told(self) -> str:
        """The paper's figure, as text."""
        return f"{self.low:g}{self.unit}" if self.low == self.high else f"{self.low:g} to {self.high:g}{self.unit}"
