"""Figure 13: requests that run at once."""

from typing import Any

from octavo.evaluation.drawing import paired_bars
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.runs import served
from octavo.evaluation.paper.setups import OPT_13B, ORCA_MAX, ORCA_ORACLE, ORCA_POW2, PAGED
from octavo.evaluation.paper.workload import Workload

PAPER = {
    ("sharegpt", 2.0): {ORCA_MAX: 7.00, ORCA_POW2: 9.81, ORCA_ORACLE: 13.62, PAGED: 30.42},
    ("alpaca", 30.0): {ORCA_MAX: 7.00, ORCA_POW2: 43.24, ORCA_ORACLE: 72.75, PAGED: 132.44},
}
"""By data set and requests a second."""
SECONDS = {"sharegpt": (900.0, 200.0), "alpaca": (300.0, 40.0)}
"""Of arrivals, in full and quick."""
SLACK = 0.25


class Figure13:
    """OPT-13B at the paper's two rates."""

    name = "figure-13"
    title = "Figure 13: requests batched on average (OPT-13B)"

    def jobs(self, quick: bool) -> list[Job]:
        return [
            Job(f"{dataset}/{system}", (dataset, system, rate, round(rate * SECONDS[dataset][quick])))
            for (dataset, rate), systems in PAPER.items()
            for system in systems
        ]

    def run(self, job: Job) -> float:
        dataset, system, rate, count = job.arguments
        return served(OPT_13B, system, Workload(dataset), rate, count).figures().mean_running

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        return [
            Claim(
                figure=self.name,
                text=f"{system}, {dataset} at {rate:g} requests/s: requests batched",
                low=paper,
                high=paper,
                slack=SLACK * paper,
                simulated=results[f"{dataset}/{system}"],
            )
            for (dataset, rate), systems in PAPER.items()
            for system, paper in systems.items()
        ]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.set_size_inches(8, 3.4)
        for axes, ((dataset, rate), systems) in zip(figure.subplots(1, 2), PAPER.items(), strict=True):
            here = [results[f"{dataset}/{system}"] for system in systems]
            paired_bars(axes, list(systems), ("paper", list(systems.values())), ("here", here))
            axes.tick_params(axis="x", labelsize="small")
            axes.set(ylabel="requests batched", title=f"{dataset}, {rate:g} requests/s")
