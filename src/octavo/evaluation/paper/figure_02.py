"""Figure 2: what of the KV memory holds token states."""

from typing import Any

import msgspec

from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.setups import OPT_13B, SYSTEMS
from octavo.evaluation.paper.workload import work
from octavo.evaluation.waste import PAPER_PERCENT, VOCAB_SIZE, WasteShares, draw, measure

NAMES = {knobs["kv_allocation"]: system for system, knobs in SYSTEMS.items()}
"""Of systems, by how they allocate."""
SLACK = 5.0
"""Points."""


class Figure2:
    """Shares of the memory while requests wait for it: ShareGPT's lengths, OPT-13B."""

    name = "figure-2"
    title = "Figure 2: where the KV memory is (ShareGPT, OPT-13B)"

    def jobs(self, quick: bool) -> list[Job]:
        return [Job("shares", (256 if quick else 512,))]

    def run(self, job: Job) -> list[dict[str, Any]]:
        [count] = job.arguments
        shares = measure(work("sharegpt", count, VOCAB_SIZE), OPT_13B.num_slots, 16, 2048)
        return [msgspec.to_builtins(each) for each in shares]

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        return [
            Claim(
                figure=self.name,
                text=f"{NAMES[each['allocation']]}, KV memory that holds token states",
                unit=" %",
                low=PAPER_PERCENT[each["allocation"]],
                high=PAPER_PERCENT[each["allocation"]],
                slack=SLACK,
                simulated=100 * each["token_states"],
            )
            for each in results["shares"]
        ]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        shares = msgspec.convert(results["shares"], list[WasteShares])
        axes = figure.subplots()
        draw(axes, shares, [NAMES[each.allocation] for each in shares])
        axes.set(title=self.title)
