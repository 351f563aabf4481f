"""Figures of normalized latency against the rate of requests: a panel for each workload, a curve for each system."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.runs import LATENCY_S, sustained
from octavo.evaluation.paper.setups import ORCA_MAX, ORCA_ORACLE, ORCA_POW2, PAGED, Setup
from octavo.evaluation.paper.workload import Workload
from octavo.evaluation.simulator.sweep import Tried, best

ITERATION_LEVEL = (ORCA_MAX, ORCA_POW2, ORCA_ORACLE, PAGED)
"""Systems of most figures, which leave FasterTransformer out."""
RESOLUTIONS = (1.05, 1.2)
"""Between rates, in full and quick."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One workload on one machine."""

    title: str
    setup: Setup
    workload: Workload
    first_rate: float
    """Requests a second, to begin with."""
    seconds: tuple[float, float]
    """For which requests come at each rate, in full and quick; 0 leaves the panel out. The paper has them come for an
    hour; the sooner they end, the more of a rate that is too high still comes in time."""
    gains: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of vLLM's sustained rate over a system's, what the paper says: the least and the most."""
    slack: float = 0.0
    """How far from these it may be, as a share."""
    systems: tuple[str, ...] = ITERATION_LEVEL
    paged_knobs: Mapping[str, Any] = field(default_factory=dict)
    """Of the paged system here."""
    note: str = ""
    """Why a gain is another, where it is."""


@dataclass
class RateCurves:
    """A figure of such panels."""

    name: str
    title: str
    panels: tuple[Panel, ...]

    def jobs(self, quick: bool) -> list[Job]:
        return [
            Job(f"{panel.title}/{system}", (number, system, quick))
            for number, panel in enumerate(self.panels)
            for system in (self._compared(panel) if quick else panel.systems)
            if panel.seconds[quick]
        ]

    def run(self, job: Job) -> dict[str, Any]:
        number, system, quick = job.arguments
        panel = self.panels[number]
        knobs = panel.paged_knobs if system == PAGED else {}
        tried = sustained(
            panel.setup,
            system,
            panel.workload,
            panel.seconds[quick],
            panel.first_rate,
            RESOLUTIONS[quick],
            **knobs,
        )
        return curve(tried)

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        return [
            Claim(
                figure=self.name,
                text=f"{panel.title}: rate sustained over {system}",
                unit="x",
                low=low,
                high=high,
                slack=panel.slack * high,
                simulated=gain(curves, system),
                note=panel.note,
            )
            for panel, curves in self._drawn(results)
            for system, (low, high) in panel.gains.items()
        ]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        drawn = self._drawn(results)
        columns = min(3, len(drawn))
        rows = -(-len(drawn) // columns)
        figure.set_size_inches(4.6 * columns, 3.4 * rows)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (panel, curves) in zip(grid.flat, drawn, strict=False):
            draw_curves(axes, curves, LATENCY_S)
            axes.set(title=panel.title)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        grid.flat[0].legend(fontsize="small")

    def _compared(self, panel: Panel) -> tuple[str, ...]:
        """The systems that the paper's figures are about."""
        return tuple(system for system in panel.systems if system == PAGED or system in panel.gains)

    def _drawn(self, results: dict[str, Any]) -> list[tuple[Panel, dict[str, Any]]]:
        """The panels that results have, and their curves by system."""
        drawn = []
        for panel in self.panels:
            keys = {system: f"{panel.title}/{system}" for system in panel.systems}
            if curves := {system: results[key] for system, key in keys.items() if key in results}:
                drawn.append((panel, curves))
        return drawn


def curve(tried: list[Tried]) -> dict[str, Any]:
    """The rates that were tried, their latencies, and the highest that is sustained, 0 where none is."""
    highest = best(tried)
    return {
        "points": sorted((each.rate, each.figures.normalized_latency_s.mean) for each in tried),
        "sustained": highest.rate if highest else 0.0,
        "running": max((each.figures.mean_running for each in tried), default=0.0),
    }


def gain(curves: dict[str, Any], system: str) -> float | None:
    """Of the paged system's sustained rate over another's; None where there is none."""
    own, other = (curves.get(name, {}).get("sustained") for name in (PAGED, system))
    return own / other if own and other else None


def draw_curves(axes: Any, curves: dict[str, Any], latency_s: float) -> None:
    """Latency against rate, a line for each system, up to twice the latency that is sustained."""
    for system, own in curves.items():
        axes.plot(*zip(*own["points"], strict=True), "o-", markersize=3, label=system)
    most = max(own["sustained"] for own in curves.values())
    axes.axhline(latency_s, color="grey", linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1.6 * most), ylim=(0, 2 * latency_s), xlabel="requests/s", ylabel="normalized latency (s/token)")
    axes.grid(alpha=0.3)
