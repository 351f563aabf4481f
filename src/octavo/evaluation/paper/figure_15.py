"""Figure 15: blocks saved by sharing them among a request's samples, or beams."""

from typing import Any

import msgspec

from octavo.evaluation.decoding import METHODS, Decoding
from octavo.evaluation.paper import here
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.setups import OPT_13B, PAGED, prepared
from octavo.evaluation.paper.workload import NAMES, work
from octavo.evaluation.sharing import PAPER, Saving, draw, measure

KINDS = {"parallel": "parallel samples", "beam": "beams"}
WIDTHS = (2, 4, 6)
NUM_REQUESTS = {"alpaca": (128, 64), "sharegpt": (64, 32)}
"""At once, simulated, in full and quick."""
NUM_MEASURED = {"alpaca": 48, "sharegpt": 16}
"""Of beams: what samples share follows from the lengths alone, and would be the same."""
SLACK = 0.25
NOTES = {
    "parallel": "it follows from the lengths, of which the paper's data sets have others than are drawn here",
    "beam": "simulated beams part by chance, and those of a small model early, after prompts that mean nothing to it",
}


class Figure15:
    """By the ledger of the engine, averaged over its steps."""

    name = "figure-15"
    title = "Figure 15: blocks saved by sharing"

    def jobs(self, quick: bool) -> list[Job]:
        cases = [(dataset, method, width) for dataset in NUM_REQUESTS for method in METHODS for width in WIDTHS]
        jobs = [
            Job(f"simulated/{dataset}/{method}/{width}", (dataset, method, width, NUM_REQUESTS[dataset][quick]))
            for dataset, method, width in cases
        ]
        if not quick:
            jobs += [
                Job(f"measured/{dataset}/{method}/{width}", (dataset, method, width, NUM_MEASURED[dataset]), True)
                for dataset, method, width in cases
                if method == "beam"
            ]
        return jobs

    def run(self, job: Job) -> dict[str, Any]:
        dataset, method, width, count = job.arguments
        machine = here.loaded(max_num_seqs=256) if job.is_measured else prepared(OPT_13B, PAGED)
        with machine as (config, executor):
            saving = measure(
                executor,
                config,
                work(dataset, count, executor.capacity.vocab_size),
                kind=dataset,
                decoding=Decoding(method, width),
            )
        built: dict[str, Any] = msgspec.to_builtins(saving)
        return built

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        claims = []
        for (dataset, method), told in PAPER.items():
            for width, percent in told.items():
                case = f"{dataset}/{method}/{width}"
                simulated, measured = (results.get(f"{how}/{case}") for how in ("simulated", "measured"))
                claim = Claim(
                    figure=self.name,
                    text=f"{NAMES[dataset]}, {width} {KINDS[method]}: blocks saved",
                    unit=" %",
                    low=percent,
                    high=percent,
                    slack=SLACK * percent,
                    simulated=simulated and simulated["ledger"],
                    measured=measured and measured["ledger"],
                    note=NOTES[method],
                )
                claims.append(claim)
        return claims

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        savings = [msgspec.convert(each, Saving) for key, each in results.items() if key.startswith("simulated")]
        figure.set_size_inches(9, 4.2)
        draw(figure, savings)
