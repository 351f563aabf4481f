"""A real executor whose steps are timed, and told apart by what they do."""

import time
from dataclasses import dataclass, field

from octavo.evaluation.simulator.model_work import ModelWork, StepAmounts
from octavo.evaluation.simulator.step_model import StepModel
from octavo.execution.executor import Executor, PendingOutput
from octavo.execution.plan import Plan


@dataclass(slots=True)
class TimedExecutor:
    """Runs one step at a time, and has the host wait for it."""

    executor: Executor
    work: ModelWork
    steps: list[tuple[StepAmounts, float]] = field(default_factory=list)
    """What each step did, and the seconds that it took without its moves."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.executor, name)

    def seconds_over(self, model: StepModel) -> float:
        """How many times as long all steps together took as a model says; 1 without any."""
        said = sum(model.compute_s(amounts) for amounts, _ in self.steps)
        return sum(seconds for _, seconds in self.steps) / said if said else 1.0

    def submit(self, plan: Plan) -> PendingOutput:
        start_s = time.perf_counter()
        output = self.executor.submit(plan).result()
        self.steps.append((self.work.of(plan), time.perf_counter() - start_s - output.move_s))
        return PendingOutput.ready(output)
