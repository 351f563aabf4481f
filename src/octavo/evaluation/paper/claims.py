"""What the paper says in figures, and what came out here."""

import math

import msgspec


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the paper's, or a range."""

    figure: str
    text: str
    unit: str = ""
    low: float = -math.inf
    """The paper's figure, or the least of its range."""
    high: float = math.inf
    """The same as `low`, or the most of its range."""
    slack: float = 0.0
    """How far from these it may be, for the claim to hold: in the same unit."""
    simulated: float | None = None
    """On the paper's machines."""
    measured: float | None = None
    """On this one, with a small model."""
    note: str = ""
    """Why it is another, where it is."""

    @property
    def verdicts(self) -> list[bool]:
        """Whether what was simulated is within the claim, and what was measured, as far as they are there."""
        found = (each for each in (self.simulated, self.measured) if each is not None)
        return [self.low - self.slack <= each <= self.high + self.slack for each in found]

    @property
    def told(self) -> str:
        """The paper's figure, as text."""
        if self.low == self.high:
            return f"{self.low:g}{self.unit}"
        if math.isinf(self.low):
            return f"at most {self.high:g}{self.unit}"
        if math.isinf(self.high):
            return f"at least {self.low:g}{self.unit}"
        return f"{self.low:g} to {self.high:g}{self.unit}"
