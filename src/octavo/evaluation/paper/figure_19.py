"""Figure 19: preemption by recompute and by swap, for each block size."""

from typing import Any

import msgspec

from octavo.evaluation.paper import here
from octavo.evaluation.paper.block_sizes import by_size, draw_sizes, latency_s, sizes
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.setups import OPT_13B, PAGED, prepared
from octavo.evaluation.swap_cost import SwapCost, cost_of

MODES = ("recompute", "swap")
NUM_TOKENS, NUM_REPEATS = 256, 10
"""Of the sequence that is preempted, and times that this is measured."""
HERE_BYTES = 256 << 20
"""Of memory for keys and values here, and as much to swap to."""
MOST_OVER_SWAP, SMALL_OVER_16 = 1.2, 1.5
ALIKE, SLACK = (16, 32, 64), 0.2
"""Block sizes with which both do alike (section 7.3), and how much that may be off."""


class Figure19:
    """One preemption, and requests served with many."""

    name = "figure-19"
    title = "Figure 19: recompute and swap"

    def jobs(self, quick: bool) -> list[Job]:
        return [
            *(Job(f"simulated/{size}", (size,)) for size in sizes(quick)),
            *(Job(f"{mode}/{size}", ("sharegpt", size, quick, mode)) for mode in MODES for size in sizes(quick)),
            *(Job(f"measured/{size}", (size,), True) for size in sizes(quick)),
        ]

    def run(self, job: Job) -> Any:
        kind = job.key.partition("/")[0]
        if kind in MODES:
            return latency_s(*job.arguments)
        [size] = job.arguments
        if job.is_measured:
            machine = here.loaded(block_size=size, kv_cache_memory=HERE_BYTES, swap_space=HERE_BYTES)
        else:
            machine = prepared(OPT_13B, PAGED, block_size=size, preemption_mode="swap")
        with machine as (_, executor):
            return msgspec.to_builtins(cost_of(executor, NUM_TOKENS, NUM_REPEATS))

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        costs = {how: _costs(results, how) for how in ("simulated", "measured")}
        over_swap = {how: max(each.recompute_ms / each.swap_ms for each in own.values()) for how, own in costs.items()}
        small = {how: own[1].swap_ms / own[16].swap_ms for how, own in costs.items()}
        latencies = {mode: by_size(results, mode) for mode in MODES}
        alone = [
            Claim(
                figure=self.name,
                text=f"{NUM_TOKENS} tokens: time to recompute over time to swap, at the most",
                unit="x",
                high=MOST_OVER_SWAP,
                **over_swap,
                note="a block is one piece with all its layers here, which moves at the link's full speed; and a CPU "
                "swaps within one memory",
            ),
            Claim(
                figure=self.name,
                text="time to swap with blocks of one token over that with 16",
                unit="x",
                low=SMALL_OVER_16,
                **small,
                note="one piece holds all layers of a block here, so that small blocks move about as fast",
            ),
        ]
        served = [
            Claim(
                figure=self.name,
                text=f"blocks of {size}: latency with recompute over that with swap",
                unit="x",
                low=1,
                high=1,
                slack=SLACK,
                simulated=latencies["recompute"][size] / latencies["swap"][size],
            )
            for size in ALIKE
            if size in latencies["swap"]
        ]
        return alone + served

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.set_size_inches(12, 3.4)
        simulated, measured, latency = figure.subplots(1, 3)
        for axes, how, title in ((simulated, "simulated", OPT_13B.name), (measured, "measured", f"{here.NAME}, here")):
            costs = _costs(results, how)
            curves = {
                "recompute": {size: each.recompute_ms for size, each in costs.items()},
                "swap out": {size: each.swap_out_ms for size, each in costs.items()},
                "swap in": {size: each.swap_in_ms for size, each in costs.items()},
                "both": {size: each.swap_ms for size, each in costs.items()},
            }
            draw_sizes(axes, curves, "ms", by_ratios=True)
            axes.set(title=f"{title}: {NUM_TOKENS} tokens")
        draw_sizes(latency, {mode: by_size(results, mode) for mode in MODES}, "normalized latency (s/token)")
        latency.set(title=f"{OPT_13B.name}, ShareGPT")


def _costs(results: dict[str, Any], how: str) -> dict[int, SwapCost]:
    return {size: msgspec.convert(own, SwapCost) for size, own in by_size(results, how).items()}
