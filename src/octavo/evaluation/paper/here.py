"""The machine that the evaluation runs on, with a small model that is really there."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.paper.runs import replay
from octavo.evaluation.paper.setups import PAGED, knobs_of
from octavo.evaluation.simulator.replay import RealClock
from octavo.evaluation.simulator.tally import Tally
from octavo.evaluation.simulator.traffic import Arrival
from octavo.execution.executor import Executor
from octavo.execution.local import LocalExecutor

MODEL, NAME = "smollm2", "SmolLM2-135M"


@contextmanager
def loaded(**knobs: Any) -> Iterator[tuple[EngineConfig, Executor]]:
    """The model, loaded, and the config for its engines.

    Raises:
        OctavoError: it is not here.
    """
    config = EngineConfig(model=MODEL, **knobs)
    with closing(LocalExecutor(config)) as executor:
        yield config, executor


class ServedHere:
    """The paper's systems with the same weights and so few token slots that memory is what limits, one after the other.

    Args:
        config: of the engines, but for what makes them one of the systems.
    """

    def __init__(self, config: EngineConfig, executor: Executor) -> None:
        self._config, self._executor = config, executor

    def serve(self, system: str, arrivals: list[Arrival], gives_up: Callable[[Tally], bool] = lambda _: False) -> Tally:
        """A new engine of a system serves requests in real time."""
        capacity = self._executor.capacity
        knobs = knobs_of(system, capacity.num_blocks * capacity.block_size, capacity.max_model_len)
        engine = Engine.configured(self._executor, replace(self._config, **knobs))
        return replay(engine, RealClock(), system, arrivals, gives_up)

    def idle_latency_s(self, arrivals: list[Arrival]) -> float:
        """The normalized latency of requests that come one by one."""
        return self.serve(PAGED, arrivals).normalized.mean
