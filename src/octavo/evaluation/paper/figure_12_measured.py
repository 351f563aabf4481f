"""Figure 12 for real: a small model on this machine, its KV memory squeezed until that is what limits."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

from octavo.evaluation.paper import here
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.figure_12 import BASIC_ALPACA, GAINS
from octavo.evaluation.paper.rate_curves import curve, draw_curves, gain
from octavo.evaluation.paper.runs import rates_of
from octavo.evaluation.paper.setups import PAGED, SYSTEMS
from octavo.evaluation.paper.workload import Workload

WORKLOADS = {"sharegpt": Workload("sharegpt", scale=0.125), "alpaca": Workload("alpaca", scale=0.5)}
NAMES = {"sharegpt": "ShareGPT, an eighth as long", "alpaca": "Alpaca, half as long"}
"""So that a run takes minutes."""
KNOBS: dict[str, Any] = {
    "max_model_len": 256,
    "block_size": 8,
    "kv_cache_memory": 24 << 20,
    "max_num_seqs": 64,
    "dtype": "float32",
    "quantization": "none",
    "speculate": "off",
}
"""An eighth of the paper's 2,048 tokens, and a memory for two sequences of that length: with more of it a CPU computes
all that it can before the memory is full. In float32 a step of sixteen sequences takes it one and a half times as long
as a step of one, about as a GPU; in fewer bits, three times."""
SECONDS, RESOLUTION, STEP = 18.0, 1.13, 1.25
FIRST_RATES = {"sharegpt": (1.4, 2.1, 2.6, 3.1, 5.5), "alpaca": (1.8, 3.0, 4.0, 5.5, 9.0)}
"""Requests a second that each system is tried with first: what is expected of two cores."""
NOTES = {
    "sharegpt": "seven requests run at once where the paper's GPU has thirty, so that less is won: with a memory for "
    "more a CPU computes all that it can before the memory is full",
    "alpaca": "a memory for two of the longest sequences is worth more to short ones than the paper's, for seven",
}
NUM_IDLE, IDLE_RATE = 8, 0.5
"""Requests that tell what an idle machine takes, and how many a second."""
LATENCY_FACTOR = 5.0
"""Times an idle machine's normalized latency, up to which a rate counts as sustained."""


class Figure12Measured:
    """Five systems, with the same kernels and the same weights."""

    name = "figure-12-measured"
    title = f"Figure 12, measured: {here.NAME} on this machine"

    def jobs(self, quick: bool) -> list[Job]:
        return [] if quick else [Job(dataset, is_measured=True) for dataset in WORKLOADS]

    def run(self, job: Job) -> dict[str, Any]:
        workload = WORKLOADS[job.key]
        with here.loaded(**KNOBS) as (config, executor):
            machine = here.ServedHere(config, executor)
            latency_s = LATENCY_FACTOR * machine.idle_latency_s(list(workload.arrivals(NUM_IDLE, IDLE_RATE)))
            curves = {
                system: curve(
                    rates_of(
                        partial(machine.serve, system),
                        workload,
                        SECONDS,
                        first_rate,
                        RESOLUTION,
                        latency_s,
                        step=STEP,
                    )
                )
                for system, first_rate in zip(SYSTEMS, FIRST_RATES[job.key], strict=True)
            }
        return {"latency_s": latency_s, "curves": curves}

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        claims = []
        for dataset, own in results.items():
            curves = own["curves"]
            rates = [curves[system]["sustained"] for system in SYSTEMS]
            claims.append(
                Claim(
                    figure=self.name,
                    text=f"{NAMES[dataset]}: neighbours in the paper's order of its {len(rates)} systems",
                    low=len(rates) - 1,
                    high=len(rates) - 1,
                    measured=sum(left < right for left, right in pairwise(rates)),
                )
            )
            told = GAINS[dataset] or BASIC_ALPACA
            for system in (system for system in SYSTEMS if system != PAGED):
                low, high = told.get(system, (1.0, math.inf))
                claims.append(
                    Claim(
                        figure=self.name,
                        text=f"{NAMES[dataset]}: rate sustained over {system}",
                        unit="x",
                        low=low,
                        high=high,
                        slack=0.25 * low if low == high else 0.0,
                        measured=gain(curves, system),
                        note=NOTES[dataset],
                    )
                )
        return claims

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.set_size_inches(9, 3.4)
        for axes, (dataset, own) in zip(
            figure.subplots(1, len(results), squeeze=False).flat, results.items(), strict=True
        ):
            draw_curves(axes, own["curves"], own["latency_s"])
            axes.set(title=NAMES[dataset])
            axes.legend(fontsize="small")
