"""Figure 12: normalized latency against the rate of requests, and the rates that are sustained."""

from typing import Any

from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.runs import LATENCY_S, sustained
from octavo.evaluation.paper.setups import FASTER_TRANSFORMER, ORCA_MAX, ORCA_ORACLE, PAGED, SETUPS, SYSTEMS

DATASETS = {"sharegpt": "ShareGPT", "alpaca": "Alpaca"}
FIRST_RATES = {"sharegpt": 1.0, "alpaca": 10.0}
SECONDS = {"sharegpt": (1800.0, 100.0), "alpaca": (300.0, 25.0)}
"""For which requests come at each rate, in full and quick. The paper has them come for an hour; the sooner they end,
the more of a rate that is too high still comes in time."""
RESOLUTIONS = (1.05, 1.2)
"""Of the rates, in full and quick."""
CLAIMS: dict[str, dict[str, tuple[float, float]]] = {
    "sharegpt": {ORCA_ORACLE: (1.7, 2.7), ORCA_MAX: (2.7, 8.0), FASTER_TRANSFORMER: (2.7, 22.0)},
    "alpaca": {},
}
"""Rates that vLLM sustains over others' (section 6.2). FasterTransformer's 22 is said as the most; it is slower than
all of Orca's."""
NOTE = "rates that are only just too high come in time where requests do not come for an hour"
NOTES = {
    "OPT-175B": "with so many slots over a hundred sequences run at once, and what each takes on the host limits the "
    "rate before the memory does; the less that is, the larger the ratio"
}
"""Of claims that do not hold."""


class Figure12:
    """A panel for each model and data set."""

    name = "figure-12"
    title = "Figure 12: normalized latency against request rate"

    def jobs(self, quick: bool) -> list[Job]:
        return [
            Job(f"{setup}/{dataset}/{system}", (setup, dataset, system, SECONDS[dataset][quick], RESOLUTIONS[quick]))
            for setup in (["OPT-13B"] if quick else SETUPS)
            for dataset in DATASETS
            for system in SYSTEMS
        ]

    def run(self, job: Job) -> dict[str, Any]:
        setup, dataset, system, seconds, resolution = job.arguments
        tried = sustained(SETUPS[setup], system, dataset, seconds, FIRST_RATES[dataset], resolution)
        points = sorted((each.rate, each.figures.normalized_latency_s.mean) for each in tried)
        rates = [each.rate for each in tried if each.is_sustained]
        running = max((each.figures.mean_running for each in tried), default=0.0)
        return {"points": points, "sustained": max(rates, default=0.0), "running": running}

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        claims = []
        for setup, dataset in _panels(results):
            own = {system: results[f"{setup}/{dataset}/{system}"]["sustained"] for system in SYSTEMS}
            for system, (low, high) in CLAIMS[dataset].items():
                claims.append(
                    Claim(
                        figure=self.name,
                        text=f"{setup}, {DATASETS[dataset]}: rate sustained over {system}",
                        unit="x",
                        low=low,
                        high=high,
                        simulated=own[PAGED] / own[system] if own[system] else None,
                        note=NOTES.get(setup, NOTE),
                    )
                )
        return claims

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        panels = _panels(results)
        columns = len({setup for setup, _ in panels})
        rows = -(-len(panels) // columns)
        figure.set_size_inches(4.6 * columns, 3.4 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        ordered = sorted(panels, key=lambda panel: list(DATASETS).index(panel[1]))
        for axes, (setup, dataset) in zip(grid.flat, ordered, strict=True):
            for system in SYSTEMS:
                own = results[f"{setup}/{dataset}/{system}"]
                axes.plot(*zip(*own["points"], strict=True), "o-", markersize=3, label=system)
            most = max(results[f"{setup}/{dataset}/{system}"]["sustained"] for system in SYSTEMS)
            axes.axhline(LATENCY_S, color="grey", linestyle=":", linewidth=1)
            axes.set(xlim=(0, 1.6 * most), ylim=(0, 2 * LATENCY_S), title=f"{setup}, {DATASETS[dataset]}")
            axes.set(xlabel="requests/s", ylabel="normalized latency (s/token)")
            axes.grid(alpha=0.3)
        grid.flat[0].legend(fontsize="small")


def _panels(results: dict[str, Any]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((key.split("/")[0], key.split("/")[1]) for key in results))
