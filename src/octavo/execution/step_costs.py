"""What a token more costs a step, learned from the steps that were made."""

MEMORY = 32
"""Steps after which one counts a third."""
BALANCE = 16
"""Tokens whose products take as long as reading the weights does, about, on most machines: where nothing is known."""
PRIOR = 2.0
"""Tokens²: how much the numbers of tokens must have varied to count as much as `BALANCE` does."""
LEAST = 0.1
"""Of the slope by `BALANCE`: what noise may say at least."""


class StepCosts:
    """A line through the seconds of late steps over their numbers of tokens (least squares, with a prior slope)."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._mean_tokens = self._mean_s = self._variance = self._covariance = 0.0

    def learn(self, num_tokens: int, seconds: float) -> None:
        """Take a step into account."""
        self._num_steps = min(self._num_steps + 1, MEMORY)
        rate = 1 / self._num_steps
        more_tokens, more_s = num_tokens - self._mean_tokens, seconds - self._mean_s
        self._mean_tokens += rate * more_tokens
        self._mean_s += rate * more_s
        self._variance = (1 - rate) * (self._variance + rate * more_tokens**2)
        self._covariance = (1 - rate) * (self._covariance + rate * more_tokens * more_s)

    def estimate(self, num_tokens: int) -> tuple[float, float]:
        """Seconds of a step with so many tokens, and of each token that it has more."""
        usual = self._mean_s / (self._mean_tokens + BALANCE)
        slope = max(LEAST * usual, (self._covariance + PRIOR * usual) / (self._variance + PRIOR))
        return max(slope * num_tokens, self._mean_s + slope * (num_tokens - self._mean_tokens)), slope
