"""Figure 1: what a batch's size does to memory and throughput."""

from typing import Any

from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.runs import served
from octavo.evaluation.paper.setups import OPT_13B, ORCA_MAX, PAGED
from octavo.evaluation.paper.workload import Workload

SIZES = {ORCA_MAX: (1, 2, 4, 6, 8), PAGED: (1, 2, 4, 8, 16, 24, 32, 40)}
"""Requests that may run at once."""
QUICK_SIZES = {ORCA_MAX: (1, 4, 8), PAGED: (1, 8, 40)}
RATE = 20.0
"""Requests a second: more than any of them serves."""
SECONDS = (120.0, 40.0)
"""For which they come, in full and quick."""
GAIN = (2.0, 4.0)
"""Of the throughput, section 1."""
WEIGHTS_GIB = OPT_13B.parameter_gb * 1e9 / 2**30


class Figure1:
    """OPT-13B with ShareGPT's lengths."""

    name = "figure-1"
    title = "Figure 1: memory and throughput by the size of the batch (OPT-13B)"

    def jobs(self, quick: bool) -> list[Job]:
        sizes = QUICK_SIZES if quick else SIZES
        return [
            Job(f"{system}/{size}", (system, size, round(RATE * SECONDS[quick])))
            for system in sizes
            for size in sizes[system]
        ]

    def run(self, job: Job) -> dict[str, float]:
        system, size, count = job.arguments
        figures = served(OPT_13B, system, Workload("sharegpt"), RATE, count, max_num_seqs=size).figures()
        used = figures.token_states + figures.reserved + figures.internal
        return {"running": figures.mean_running, "used": used, "output_tok_s": figures.output_tok_s}

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        most = {system: max(own["output_tok_s"] for own in curve) for system, curve in _curves(results).items()}
        low, high = GAIN
        return [
            Claim(
                figure=self.name,
                text=f"OPT-13B, ShareGPT: highest throughput over {ORCA_MAX}'s",
                unit="x",
                low=low,
                high=high,
                simulated=most[PAGED] / most[ORCA_MAX],
            )
        ]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.set_size_inches(9, 3.4)
        memory, throughput = figure.subplots(1, 2)
        for system, curve in _curves(results).items():
            running = [own["running"] for own in curve]
            held_gib = [WEIGHTS_GIB + own["used"] * OPT_13B.kv_gib for own in curve]
            memory.plot(running, held_gib, "o-", label=system)
            throughput.plot(running, [own["output_tok_s"] for own in curve], "o-", label=system)
        memory.axhline(WEIGHTS_GIB, color="grey", linestyle=":", linewidth=1, label="weights")
        memory.set(xlabel="requests in the batch", ylabel="memory used (GiB)")
        throughput.set(xlabel="requests in the batch", ylabel="output tokens/s")
        for axes in (memory, throughput):
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")


def _curves(results: dict[str, Any]) -> dict[str, list[Any]]:
    """What came out for each system, by the batch's size."""
    curves: dict[str, dict[int, Any]] = {system: {} for system in SIZES}
    for key, own in results.items():
        system, _, size = key.rpartition("/")
        curves[system][int(size)] = own
    return {system: [own for _, own in sorted(curve.items())] for system, curve in curves.items()}
