"""Memory saved by sharing blocks among a request's sequences (paper, figure 15): the ledger's account beside one made
offline from the tokens alone."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

import msgspec

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.decoding import METHODS, Decoding, Method
from octavo.evaluation.drawing import paired_bars
from octavo.evaluation.workloads import Work
from octavo.execution.executor import ExecutionTimes, Executor, PendingOutput
from octavo.execution.plan import Plan
from octavo.memory import Ledger
from octavo.scheduling.messages import EngineRequest, request_seed
from octavo.structured_outputs import Grammar, ReasoningSection

PAPER: dict[tuple[str, Method], dict[int, float]] = {
    ("alpaca", "parallel"): {2: 6.1, 4: 8.5, 6: 9.8},
    ("alpaca", "beam"): {2: 37.6, 4: 53.1, 6: 55.2},
    ("sharegpt", "parallel"): {2: 16.2, 6: 30.5},
    ("sharegpt", "beam"): {2: 44.3, 6: 66.3},
}
"""Per cent saved with OPT-13B (section 6.3); for ShareGPT the ends of the ranges that the text gives."""


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """Per cent of blocks saved: blocks saved by sharing over blocks without it, averaged over the steps."""

    kind: str
    method: Method
    sequences: int
    """Samples or beams a request."""
    requests: int
    steps: int
    ledger: float
    offline: float
    """From the tree of tokens and the block size."""
    paper: float | None


class TokenTrees:
    """Follows plans as a runner does, but keeps of each row only where in its request's tree of tokens it goes along: a
    number for each token, the same in two rows as long as they have not been forked from each other."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._numbers = count()
        self._paths: dict[int, list[int]] = {}
        self._num_computed: dict[int, int] = {}

    def follow(self, plan: Plan) -> None:
        """Take in what a step changes, but for the tokens it will give."""
        for row in plan.released:
            self._num_computed[row] = 0
        for row in plan.removed:
            self._paths.pop(row, None)
            self._num_computed.pop(row, None)
        for new in plan.added:
            self._paths[new.row] = [next(self._numbers) for _ in new.token_ids]
        for fork in plan.forked:
            self._paths[fork.row] = self._paths[fork.parent].copy()
        for row, _ in plan.chosen:
            self.extend(row, 1)
        for edit in plan.tables:
            if edit.parent >= 0:
                self._num_computed[edit.row] = min(edit.num_shared * self._block_size, len(self._paths[edit.row]))
        for row, start, num_new in zip(plan.rows, plan.starts, plan.num_new, strict=True):
            self._num_computed[row] = start + num_new

    def extend(self, row: int, num_tokens: int) -> None:
        """A row has got tokens of its own."""
        self._paths[row] += [next(self._numbers) for _ in range(num_tokens)]

    def saving(self) -> float | None:
        """The share of blocks saved now, 0 to 1; None where no row has any."""
        # A block is the tokens up to its last one: two rows share it where that is the same place in the tree.
        ends = [end for row, computed in self._num_computed.items() for end in self._block_ends(row, computed)]
        return 1 - len(set(ends)) / len(ends) if ends else None

    def _block_ends(self, row: int, num_computed: int) -> Iterator[int]:
        path = self._paths[row]
        for first in range(0, num_computed, self._block_size):
            yield path[min(first + self._block_size, num_computed) - 1]


class _Recorder:
    """An executor in front of another one, which notes both accounts at each step."""

    depth = 1

    def __init__(self, executor: Executor) -> None:
        self.capacity, self.loaded, self.sockets = executor.capacity, executor.loaded, executor.sockets
        self.ledger: Callable[[], Ledger] | None = None
        self.savings: list[tuple[float, float]] = []
        """(by the ledger, offline) of each step."""
        self._executor = executor
        self._trees = TokenTrees(executor.capacity.block_size)

    def submit(self, plan: Plan) -> PendingOutput:
        self._trees.follow(plan)
        offline = self._trees.saving()
        if self.ledger is not None and offline is not None:
            self.savings.append((self.ledger().sharing_savings, offline))
        output = self._executor.submit(plan).result()
        for row, token_ids in zip(plan.sampled_rows, output.token_ids, strict=True):
            self._trees.extend(row, len(token_ids))
        return PendingOutput.ready(output)

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[Any]:
        return self._executor.prepare(wanted)

    def check(self) -> None:
        self._executor.check()

    def times(self) -> ExecutionTimes:
        return self._executor.times()

    def close(self) -> None:
        """The other one stays open."""


def measure(
    executor: Executor,
    config: EngineConfig,
    work: Sequence[Work],
    *,
    kind: str,
    decoding: Decoding,
    produced: Callable[[int], object] = lambda _: None,
) -> Saving:
    """Run all of the work at once, past end-of-sequence tokens, and account for the memory at each step.

    Args:
        config: of the engine.
        kind: whose lengths these are, a data set of the paper.
        produced: told the number of output tokens of each request that is over.

    Raises:
        RequestError: a request of the work does not fit.
    """
    recorder = _Recorder(executor)
    engine = Engine.configured(recorder, config)
    recorder.ledger = engine.ledger
    lengths = {str(number): each.out for number, each in enumerate(work)}
    for number, each in enumerate(work):
        params = decoding.params(each.out)
        engine.add(EngineRequest(str(number), each.ids, params, float(number), request_seed(0, number)))
    while engine.has_unfinished:
        for update in engine.step():
            produced(sum(lengths[update.request_id] for each in update.sequences if each.finish_reason))
    by_ledger, offline = zip(*recorder.savings, strict=True)
    return Saving(
        kind=kind,
        method=decoding.method,
        sequences=decoding.num_sequences,
        requests=len(work),
        steps=len(recorder.savings),
        ledger=round(100 * statistics.fmean(by_ledger), 2),
        offline=round(100 * statistics.fmean(offline), 2),
        paper=PAPER.get((kind, decoding.method), {}).get(decoding.num_sequences),
    )


def plot(figures: Sequence[Saving], path: str) -> None:
    """Draw the savings beside the paper's as bars, a panel for each method, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    draw(figure, figures)
    figure.savefig(path, dpi=120)


def draw(figure: Any, savings: Sequence[Saving]) -> None:
    """The same into matplotlib's figure."""
    for axes, method in zip(figure.subplots(1, 2, sharey=True), METHODS, strict=True):
        cases = [case for case in savings if case.method == method]
        names, ledgers = [f"{case.kind}\n{case.sequences}" for case in cases], [case.ledger for case in cases]
        paired_bars(axes, names, ("ledger", ledgers), ("paper, OPT-13B", [case.paper or 0 for case in cases]))
        axes.set(title={"parallel": "Parallel sampling", "beam": "Beam search"}[method], ylabel="blocks saved (%)")
        axes.tick_params(axis="x", labelsize="small")
        axes.grid(alpha=0.3, axis="y")
