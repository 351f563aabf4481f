"""A system serving a data set's requests in a setup: at one rate, and at the highest that it sustains."""

from collections.abc import Callable

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.paper.setups import FASTER_TRANSFORMER, Setup, pairs, prepared
from octavo.evaluation.simulator.machine import another
from octavo.evaluation.simulator.replay import Replay, SimulatedClock
from octavo.evaluation.simulator.sweep import Targets, Tried, sustained_rates
from octavo.evaluation.simulator.tally import Tally
from octavo.evaluation.simulator.traffic import at_rate
from octavo.execution.simulated import SimulatedExecutor

LATENCY_S = 0.25
"""Normalized latency up to which a rate counts as sustained: some five times that of an idle machine. In the paper's
figure 12 all curves rise steeply there."""
LEAST_REQUESTS = 20


def serve(
    config: EngineConfig,
    executor: SimulatedExecutor,
    system: str,
    lengths: list[tuple[int, int]],
    rate: float,
    gives_up: Callable[[Tally], bool] = lambda _: False,
    *,
    seed: int = 0,
    until_last_arrival: bool = False,
) -> Tally:
    """Requests of these lengths at a rate, through a new engine.

    Args:
        until_last_arrival: what follows the last request's arrival is left out: means are those of a machine under
            load.
    """
    own = another(executor)
    clock = SimulatedClock(own)
    arrivals = list(at_rate(lengths, rate, seed))
    replay = Replay(Engine.configured(own, config), clock, answers_batches=system == FASTER_TRANSFORMER)

    def is_over(tally: Tally) -> bool:
        return gives_up(tally) or (until_last_arrival and clock.now_s() >= arrivals[-1].arrival_s)

    return replay.run(arrivals, is_over)


def served(setup: Setup, system: str, dataset: str, rate: float, num_requests: int) -> Tally:
    """A system under load at one rate."""
    with prepared(setup, system) as (config, executor):
        return serve(config, executor, system, pairs(dataset, num_requests), rate, until_last_arrival=True)


def sustained(
    setup: Setup, system: str, dataset: str, seconds: float, first_rate: float, resolution: float
) -> list[Tried]:
    """The rates tried on the way to the highest at which the normalized latency is at most `LATENCY_S`.

    Args:
        seconds: for which requests come, at each rate.
    """

    def num_requests(rate: float) -> int:
        return max(LEAST_REQUESTS, round(rate * seconds))

    with prepared(setup, system) as (config, executor):

        def at(rate: float, gives_up: Callable[[Tally], bool]) -> Tally:
            return serve(config, executor, system, pairs(dataset, num_requests(rate)), rate, gives_up)

        targets = Targets(normalized_latency=LATENCY_S)
        return list(sustained_rates(at, targets, num_requests, first_rate, resolution))
