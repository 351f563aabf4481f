"""Requests through simulated machines, and through this one."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from octavo.cli.bench.benchmark import Outcome, opened_executor
from octavo.cli.bench.output import progress_bar
from octavo.cli.simulate.tables import print_figures, print_refusal
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.simulator.machine import another
from octavo.evaluation.simulator.plots import plot
from octavo.evaluation.simulator.replay import RealClock, Replay, SimulatedClock
from octavo.evaluation.simulator.step_model import StepModel
from octavo.evaluation.simulator.tally import Tally
from octavo.evaluation.simulator.timed import TimedExecutor
from octavo.evaluation.simulator.traffic import Arrival, share
from octavo.execution.simulated import SimulatedExecutor


def simulated(
    config: EngineConfig,
    executor: SimulatedExecutor,
    num_replicas: int,
    arrivals: Sequence[Arrival],
    gives_up: Callable[[Tally], bool] = lambda _: False,
    done: Callable[[], object] = lambda: None,
) -> Tally:
    """The tally of replicas like an executor, one after the other.

    Args:
        gives_up: asked of each replica's own tally.
        done: told of each request that is answered or refused.
    """
    whole = Tally()
    for replica in range(num_replicas):
        own = another(executor)
        replay = Replay(Engine.configured(own, config), SimulatedClock(own), done)
        whole.merge(replay.run(share(arrivals, replica, num_replicas), gives_up))
    return whole


def serve_once(
    arguments: argparse.Namespace, config: EngineConfig, executor: SimulatedExecutor, arrivals: Sequence[Arrival]
) -> Outcome:
    """Serve at one rate, and for real where asked for, and print."""
    cost = executor.cost
    assert isinstance(cost, StepModel)  # of `simulated_executor`
    with progress_bar(len(arrivals), "request", "Simulating") as bar:
        whole = simulated(config, executor, arguments.replicas, arrivals, done=bar.update)
    figures, drift = {"simulated": whole.figures()}, 1.0
    if arguments.for_real:
        with opened_executor(config) as real, progress_bar(len(arrivals), "request", "Serving") as bar:
            timed = TimedExecutor(real, cost.work)
            engine = Engine.configured(timed, config)  # type: ignore[arg-type]
            figures["measured"] = Replay(engine, RealClock(), bar.update).run(arrivals).figures()
        drift = timed.seconds_over(cost)
        executor.cost = partial(cost.slowed, drift)
        figures["simulated, as fast"] = simulated(config, executor, 1, arrivals).figures()
    print_figures(figures)
    print_refusal(whole.refusal)
    if arguments.for_real:
        print(
            f"All steps together took {drift:.2f} times what the device's rates say: where that is not about 1, the "
            "machine is\nnot as fast as when it was calibrated, or is another. The last column is simulated with steps "
            "as much slower or faster."
        )
    return Outcome(figures, lambda _, path: plot(whole, path))
