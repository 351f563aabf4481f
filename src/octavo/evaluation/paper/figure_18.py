"""Figure 18: what blocks cost a kernel, and what their size does to latency."""

import statistics
from dataclasses import replace
from typing import Any

from octavo.checkpoints.locate import locate
from octavo.evaluation.kernel_cases import KernelWork, cases
from octavo.evaluation.paper.block_sizes import by_size, draw_sizes, latency_s, sizes
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.setups import OPT_13B
from octavo.evaluation.paper.workload import NAMES
from octavo.evaluation.shapes import shape_folder
from octavo.evaluation.timing import median_s
from octavo.models.loader import read_config

ROWS, CONTEXTS = (8, 32), (64, 128, 256)
"""The figure's batches, and their tokens."""
NUM_LAYERS = 2
"""Of the model whose attention is measured: enough that a layer's keys are not in a cache when it comes again."""
MEASURED_S = 0.3
MOST_OVER_CONTIGUOUS = 1.26
"""The paper's kernel takes 20 to 26 % longer than one that reads contiguous keys."""
GOOD = {"sharegpt": (16, 32, 64, 128), "alpaca": (16, 32)}
"""Sizes that serve well (section 7.2); larger ones are worse for Alpaca."""
NEAR, WORSE = 1.15, 1.15
NOTE = (
    "requests come nearly as fast as they are served with blocks of 16, where what a larger last block leaves empty "
    "already makes them wait; with fewer requests all these sizes do alike"
)


class Figure18:
    """The kernel as measured here, with OPT-13B's heads; latencies as simulated."""

    name = "figure-18"
    title = "Figure 18: attention over blocks, and block sizes"

    def jobs(self, quick: bool) -> list[Job]:
        simulated = [Job(f"{dataset}/{size}", (dataset, size, quick)) for dataset in NAMES for size in sizes(quick)]
        return simulated + [Job(f"kernel/{size}", (size,), True) for size in sizes(quick)]

    def run(self, job: Job) -> Any:
        return _kernel_s(*job.arguments) if job.is_measured else latency_s(*job.arguments)

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        kernel_s = by_size(results, "kernel")
        over_contiguous = [
            kernel_s[16][case] / kernel_s[context][case]
            for context in CONTEXTS
            if context in kernel_s
            for case in (f"{rows} x {context} tokens" for rows in ROWS)
        ]
        claims = [
            Claim(
                figure=self.name,
                text="attention over blocks of 16 tokens, time over that with one block a sequence",
                unit="x",
                high=MOST_OVER_CONTIGUOUS,
                measured=statistics.median(over_contiguous),
            )
        ]
        for dataset, curve in _latencies(results).items():
            best, good = min(curve.values()), GOOD[dataset]
            tried = [size for size in good if size in curve]
            claims.append(
                Claim(
                    figure=self.name,
                    text=f"{NAMES[dataset]}: latency with blocks of {good[0]} to {good[-1]} over the best",
                    unit="x",
                    high=NEAR,
                    simulated=max(curve[size] for size in tried) / best,
                    note=NOTE,
                )
            )
        curve = _latencies(results)["alpaca"]
        claims.append(
            Claim(
                figure=self.name,
                text="Alpaca: latency with blocks of 256 over the best",
                unit="x",
                low=WORSE,
                simulated=curve[256] / min(curve.values()),
            )
        )
        return claims

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.set_size_inches(9, 3.4)
        kernel, latency = figure.subplots(1, 2)
        kernel_s = by_size(results, "kernel")
        shapes = list(next(iter(kernel_s.values())))
        draw_sizes(
            kernel,
            {case: {size: own[case] * 1e6 for size, own in kernel_s.items()} for case in shapes},
            "attention of a layer, here (µs)",
            by_ratios=True,
        )
        latencies = {NAMES[dataset]: curve for dataset, curve in _latencies(results).items()}
        draw_sizes(latency, latencies, "normalized latency (s/token)")


def _latencies(results: dict[str, Any]) -> dict[str, dict[int, float]]:
    return {dataset: by_size(results, dataset) for dataset in NAMES}


def _kernel_s(block_size: int) -> dict[str, float]:
    """Seconds of one layer's attention by batch and context, in bfloat16, blocks scattered over the cache."""
    with shape_folder(OPT_13B.shape) as folder:
        model = replace(read_config(locate(str(folder))), num_hidden_layers=NUM_LAYERS)
    work = KernelWork(
        model=model,
        block_size=block_size,
        kinds=("decode",),
        kv_precisions=("bfloat16",),
        sequences=ROWS,
        contexts=CONTEXTS,
    )
    return {case.shape: median_s(case.call, MEASURED_S) / case.count for case in cases(work)}
