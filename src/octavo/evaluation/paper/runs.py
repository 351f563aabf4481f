"""A system serving a workload in a setup: at one rate, and at the highest that it sustains."""

from collections.abc import Callable
from typing import Any

from octavo.engine.engine import Engine
from octavo.evaluation.paper.setups import FASTER_TRANSFORMER, Setup, prepared
from octavo.evaluation.paper.workload import Workload
from octavo.evaluation.simulator.machine import another
from octavo.evaluation.simulator.replay import Clock, Replay, SimulatedClock
from octavo.evaluation.simulator.sweep import STEP, Targets, Tried, sustained_rates
from octavo.evaluation.simulator.tally import Tally
from octavo.evaluation.simulator.traffic import Arrival

LATENCY_S = 0.25
"""Normalized latency up to which a rate counts as sustained: some five times that of an idle machine. In the paper's
figure 12 all curves rise steeply there."""
LEAST_REQUESTS = 20

Serve = Callable[[list[Arrival], Callable[[Tally], bool]], Tally]
"""Has a new engine of a system serve requests, until it is told to give up."""


def replay(
    engine: Engine, clock: Clock, system: str, arrivals: list[Arrival], gives_up: Callable[[Tally], bool]
) -> Tally:
    """Have a system's engine serve requests; a static batch is answered whole."""
    return Replay(engine, clock, answers_batches=system == FASTER_TRANSFORMER).run(arrivals, gives_up)


def served(setup: Setup, system: str, workload: Workload, rate: float, num_requests: int, **knobs: Any) -> Tally:
    """A system under load at one rate: what follows the last request's arrival is left out."""
    arrivals = list(workload.arrivals(num_requests, rate))
    with prepared(setup, system, **knobs) as (config, executor):
        clock = SimulatedClock(executor)
        engine = Engine.configured(executor, config)
        return replay(engine, clock, system, arrivals, lambda _: clock.now_s() >= arrivals[-1].arrival_s)


def sustained(
    setup: Setup,
    system: str,
    workload: Workload,
    seconds: float,
    first_rate: float,
    resolution: float,
    **knobs: Any,
) -> list[Tried]:
    """The rates tried on the way to the highest at which the normalized latency is at most `LATENCY_S`.

    Args:
        seconds: for which requests come, at each rate.
        knobs: of the engine, where they are not the paper's.
    """
    with prepared(setup, system, **knobs) as (config, executor):

        def serve(arrivals: list[Arrival], gives_up: Callable[[Tally], bool]) -> Tally:
            own = another(executor)
            return replay(Engine.configured(own, config), SimulatedClock(own), system, arrivals, gives_up)

        return rates_of(serve, workload, seconds, first_rate, resolution, LATENCY_S)


def rates_of(
    serve: Serve,
    workload: Workload,
    seconds: float,
    first_rate: float,
    resolution: float,
    latency_s: float,
    step: float = STEP,
) -> list[Tried]:
    """The rates tried on the way to the highest at which the normalized latency is at most `latency_s`.

    Args:
        step: between rates while none is known that is sustained, or none that is not.
    """

    def num_requests(rate: float) -> int:
        return max(LEAST_REQUESTS, round(rate * seconds))

    def at(rate: float, gives_up: Callable[[Tally], bool]) -> Tally:
        return serve(list(workload.arrivals(num_requests(rate), rate)), gives_up)

    return list(sustained_rates(at, Targets(normalized_latency=latency_s), num_requests, first_rate, resolution, step))
