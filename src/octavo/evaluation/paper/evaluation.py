"""Runs the figures' parts side by side, keeps what each gave, and draws them."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from octavo.errors import ConfigError
from octavo.evaluation.json_figures import as_json
from octavo.evaluation.paper.figure import Job, PaperFigure
from octavo.evaluation.paper.figure_01 import Figure1
from octavo.evaluation.paper.figure_02 import Figure2
from octavo.evaluation.paper.figure_12 import FIGURE_12
from octavo.evaluation.paper.figure_12_measured import Figure12Measured
from octavo.evaluation.paper.figure_13 import Figure13
from octavo.evaluation.paper.figure_14 import FIGURE_14
from octavo.evaluation.paper.figure_15 import Figure15
from octavo.evaluation.paper.figure_16 import FIGURE_16
from octavo.evaluation.paper.figure_17 import FIGURE_17
from octavo.evaluation.paper.figure_18 import Figure18
from octavo.evaluation.paper.figure_19 import Figure19
from octavo.evaluation.paper.table_1 import Table1
from octavo.evaluation.processes import side_by_side
from octavo.execution.machine import cores, processor

_ALL: tuple[PaperFigure, ...] = (
    Table1(),
    Figure1(),
    Figure2(),
    FIGURE_12,
    Figure12Measured(),
    Figure13(),
    FIGURE_14,
    Figure15(),
    FIGURE_16,
    FIGURE_17,
    Figure18(),
    Figure19(),
)
FIGURES = {figure.name: figure for figure in _ALL}
FORMATS = ("svg", "png")


class Results(msgspec.Struct):
    """What a figure's parts gave, as its file has it."""

    quick: bool
    parts: dict[str, Any]
    """By the jobs' keys."""
    machine: str = ""
    """That the last of those was measured on; empty where all are simulated."""


def read_results(folder: Path, name: str, quick: bool) -> Results:
    """What earlier runs of a figure have left, in the order of its jobs; nothing where they were of the other kind.

    Raises:
        ConfigError: the file is not one of results.
    """
    path = folder / f"{name}.json"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Results)
    except FileNotFoundError:
        return Results(quick, {})
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a file of `octavo evaluate`: {error}; delete it") from error
    if found.quick != quick:
        return Results(quick, {})
    keys = [job.key for job in FIGURES[name].jobs(quick)]
    found.parts = {key: found.parts[key] for key in keys if key in found.parts}
    return found


def full_runs(names: Sequence[str], folder: Path) -> list[str]:
    """The figures that a full run has left something of.

    Raises:
        ConfigError: a file is not one of results.
    """
    return [name for name in names if read_results(folder, name, quick=False).parts]


def missing_jobs(names: Sequence[str], folder: Path, quick: bool) -> list[tuple[str, Job]]:
    """The parts of figures that no earlier run has left."""
    jobs = []
    for name in names:
        have = read_results(folder, name, quick).parts
        jobs += [(name, job) for job in FIGURES[name].jobs(quick) if job.key not in have]
    return jobs


def run_jobs(
    jobs: Sequence[tuple[str, Job]], folder: Path, quick: bool, num_processes: int, told: Callable[[str], object]
) -> None:
    """Run parts, each in one of so many processes, then those that take times alone, and write what each gives when it
    is there.

    Args:
        told: told of each part that is over.
    """
    beside = [(name, job) for name, job in jobs if not job.is_measured]
    alone = [(name, job) for name, job in jobs if job.is_measured]
    done = itertools.chain(side_by_side(_run, beside, num_processes), side_by_side(_run, alone, 1))
    for (name, job), result in done:
        results = read_results(folder, name, quick)
        results.parts[job.key] = result
        if job.is_measured:
            results.machine = _told_machine()
        part = folder / f"{name}.json.part"
        part.write_bytes(as_json(results))
        part.replace(folder / f"{name}.json")
        told(f"{name} {job.key}")


def _told_machine() -> str:
    return f"{cores().usable} cores of {processor()[0]}"


def _run(named: tuple[str, Job]) -> Any:
    name, job = named
    return FIGURES[name].run(job)


def draw(name: str, results: dict[str, Any], folder: Path) -> None:
    """Draw a figure as `<name>.svg` and `.png`: the same results give the same files, byte for byte."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FIGURES[name].draw(results, figure)
    with rc_context({"svg.hashsalt": name}):
        for form in FORMATS:
            figure.savefig(folder / f"{name}.{form}", dpi=120, metadata={"Date": None} if form == "svg" else None)
