"""An executor with a cost instead of a device: the same plans, tokens from a hash. Plain Python; drives tests,
benchmarks and the simulator."""

from collections.abc import Callable

from octavo.execution.executor import Capacity, FinishedStep
from octavo.execution.plan import Plan, StepOutput
from octavo.outputs import TokenLogprobs

_GOLDEN, _MIX_1, _MIX_2, _MASK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1


def hashed_token(seed: int, index: int, position: int, vocab_size: int) -> int:
    """The token that a sequence of a request gets at an output position: SplitMix64 (Steele et al., OOPSLA 2014) of the
    three."""
    x = (seed + _GOLDEN * (index * 2**32 + position + 1)) & _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return (x ^ (x >> 31)) % vocab_size


class SimulatedExecutor:
    """Follows the rows of the plans it is given and counts the seconds that they would have cost.

    Args:
        capacity: what it pretends to have.
        cost_s: seconds that a plan takes; every plan costs nothing by default.
        depth: steps in flight at once.
    """

    def __init__(self, capacity: Capacity, cost_s: Callable[[Plan], float] = lambda plan: 0.0, depth: int = 1) -> None:
        self.capacity = capacity
        self.depth = depth
        self.clock_s = 0.0
        """Simulated seconds since the start."""
        self._cost_s = cost_s
        self._rows: dict[int, tuple[int, int, int]] = {}
        """Row -> (seed, sequence index, tokens generated)."""
        self._prompts: dict[int, list[int]] = {}

    def submit(self, plan: Plan) -> FinishedStep:
        rows = self._rows
        for row in plan.removed:
            rows.pop(row, None)
            self._prompts.pop(row, None)
        for new in plan.added:
            rows[new.row] = (new.seed, new.index, 0)
            self._prompts[new.row] = new.token_ids
        for fork in plan.forked:
            seed, _, num_generated = rows[fork.parent]
            rows[fork.row] = (seed, fork.index, num_generated)
            self._prompts[fork.row] = self._prompts[fork.parent]
        self.clock_s += self._cost_s(plan)
        return FinishedStep(StepOutput([[self._next_token(row)] for row in plan.sampled_rows], [], self._scores(plan)))

    def close(self) -> None:
        self._rows.clear()
        self._prompts.clear()

    def _next_token(self, row: int) -> int:
        seed, index, position = self._rows[row]
        self._rows[row] = (seed, index, position + 1)
        return hashed_token(seed, index, position, self.capacity.vocab_size)

    def _scores(self, plan: Plan) -> list[list[TokenLogprobs]]:
        scores = []
        for i in plan.scored:
            targets = self._prompts[plan.rows[i]][plan.starts[i] + 1 : plan.starts[i] + plan.num_new[i] + 1]
            scores.append([TokenLogprobs(token, 0.0, 1, [], []) for token in targets])
        return scores
