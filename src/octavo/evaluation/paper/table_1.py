"""Table 1: what of the GPUs' memory is left for keys and values."""

from typing import Any

from octavo.evaluation.drawing import paired_bars
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.setups import OPT_13B, OPT_66B, OPT_175B, config_of, device_of
from octavo.evaluation.shapes import shape_folder
from octavo.evaluation.simulator.machine import simulated_executor

SETUPS = {setup.name: setup for setup in (OPT_13B, OPT_66B, OPT_175B)}
GB, GIB = 1e9, 2**30


class Table1:
    """Weights and token slots of each model, by the sizing that real models go through."""

    name = "table-1"
    title = "Table 1: model sizes and server configurations"

    def jobs(self, quick: bool) -> list[Job]:
        return [Job(name) for name in SETUPS]

    def run(self, job: Job) -> dict[str, float]:
        setup = SETUPS[job.key]
        with shape_folder(setup.shape) as folder:
            config = config_of(setup, folder, kv_cache_memory=int(setup.kv_gib * GIB))
            executor = simulated_executor(config, device_of(setup))
        capacity = executor.capacity
        return {
            "parameter_gb": executor.loaded.weight_bytes / GB,
            "num_slots": capacity.num_blocks * capacity.block_size,
            "slot_kb": capacity.block_bytes / capacity.block_size / 1024,
        }

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        claims = []
        for name, own in results.items():
            setup = SETUPS[name]
            for text, unit, paper, found, slack in (
                ("weights", " GB", setup.parameter_gb, own["parameter_gb"], 0.02),
                ("token slots in its KV memory", "", setup.num_slots, own["num_slots"], 0.02),
            ):
                claim = Claim(
                    figure=self.name,
                    text=f"{name}, {text}",
                    unit=unit,
                    low=paper,
                    high=paper,
                    slack=slack * paper,
                    simulated=found,
                    note="the paper rounds the memory to whole GB",
                )
                claims.append(claim)
        slot = Claim(
            figure=self.name,
            text="OPT-13B, KV of a token",
            unit=" KB",
            low=800,
            high=800,
            simulated=results["OPT-13B"]["slot_kb"],
        )
        return [*claims, slot]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        axes = figure.subplots()
        paper, here = ([SETUPS[name].num_slots for name in results], [own["num_slots"] for own in results.values()])
        paired_bars(axes, list(results), ("paper", paper), ("here", here))
        axes.set(ylabel="token slots", title=self.title)
