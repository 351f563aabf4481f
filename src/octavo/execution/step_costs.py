"""What drafts cost a step, learned from the steps that were made."""

MEMORY = 32
"""Steps after which one counts a third."""
BALANCE = 16
"""Tokens whose products take as long as reading the weights does, about, on most machines: where nothing is known."""
PRIOR = 2.0
"""How much numbers must have varied, squared, for a line's slope to count as much as what is known without them."""
FIRST_DRAFT = 0.15
"""What the first draft costs, as a share of a step without any, where nothing is known: other kernels may run."""
FADING = 512
"""Steps without drafts after which what was learned of drafts counts a third: so they are tried again."""


class Line:
    """A line through points of late (least squares, with a prior slope)."""

    def __init__(self, x: float = 0.0, y: float = 0.0) -> None:
        """Through this point at first."""
        self._mean_x, self._mean_y = x, y
        self._variance = self._covariance = 0.0

    def learn(self, x: float, y: float, rate: float) -> None:
        """Take a point into account, which counts for so much of all."""
        more_x, more_y = x - self._mean_x, y - self._mean_y
        self._mean_x += rate * more_x
        self._mean_y += rate * more_y
        self._variance = (1 - rate) * (self._variance + rate * more_x**2)
        self._covariance = (1 - rate) * (self._covariance + rate * more_x * more_y)

    def at(self, x: float, prior_slope: float) -> tuple[float, float]:
        """The line's y there, and its slope, a tenth of the prior one at least: noise says other things too."""
        slope = max(prior_slope / 10, (self._covariance + PRIOR * prior_slope) / (self._variance + PRIOR))
        return self._mean_y + slope * (x - self._mean_x), slope


class StepCosts:
    """Seconds of decode steps by their rows, and how much longer they take with drafts."""

    def __init__(self) -> None:
        self._plain = Line()
        """Seconds over rows, of steps without drafts."""
        self._longer = Line(1, FIRST_DRAFT)
        """Of a step with drafts: its seconds over those of one without, less 1; over the number of drafts."""
        self._num_plain = self._num_drafted = 0

    def learn(self, num_rows: int, num_drafts: int, seconds: float) -> None:
        """Take a step into account."""
        if num_drafts == 0:
            self._num_plain = min(self._num_plain + 1, MEMORY)
            self._plain.learn(num_rows, seconds, 1 / self._num_plain)
            self._longer.learn(1, FIRST_DRAFT, 1 / FADING)
        elif (plain_s := self._plain_s(num_rows)) > 0:
            self._num_drafted = min(self._num_drafted + 1, MEMORY)
            self._longer.learn(num_drafts, seconds / plain_s - 1, 1 / (self._num_drafted + 1))

    def drafts(self, num_rows: int) -> tuple[float, float]:
        """How much longer a step of so many rows takes if it has drafts, and for each of them, as shares of its time
        without."""
        first, each = self._longer.at(0, 1 / (num_rows + BALANCE))
        return max(0.0, first), each

    def _plain_s(self, num_rows: int) -> float:
        seconds, _ = self._plain.at(num_rows, 0.0)
        return seconds
