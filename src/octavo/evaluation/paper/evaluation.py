"""Runs the figures' parts side by side, keeps what each gave, and draws them."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec

from octavo.errors import ConfigError
from octavo.evaluation.json_figures import as_json
from octavo.evaluation.paper.figure import Job, PaperFigure
from octavo.evaluation.paper.figure_02 import Figure2
from octavo.evaluation.paper.figure_12 import Figure12
from octavo.evaluation.paper.figure_13 import Figure13
from octavo.evaluation.paper.table_1 import Table1

FIGURES: dict[str, PaperFigure] = {figure.name: figure for figure in (Table1(), Figure2(), Figure12(), Figure13())}
FORMATS = ("svg", "png")


class Results(msgspec.Struct):
    """What a figure's parts gave, as its file has it."""

    quick: bool
    parts: dict[str, Any]
    """By the jobs' keys."""


def read_results(folder: Path, name: str, quick: bool) -> Results:
    """What earlier runs of a figure have left; nothing where they were of the other kind.

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
    return found if found.quick == quick else Results(quick, {})


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
    """Run parts, each in one of so many processes, and write what each gives when it is there.

    Args:
        told: told of each part that is over.
    """
    for name, key, result in _results(jobs, num_processes):
        results = read_results(folder, name, quick)
        results.parts[key] = result
        part = folder / f"{name}.json.part"
        part.write_bytes(as_json(results))
        part.replace(folder / f"{name}.json")
        told(f"{name} {key}")


def _results(jobs: Sequence[tuple[str, Job]], num_processes: int) -> Iterator[tuple[str, str, Any]]:
    if num_processes == 1:
        for name, job in jobs:
            yield name, job.key, _run(name, job)
        return
    context = multiprocessing.get_context("spawn")  # torch has threads, which a fork would not have
    with ProcessPoolExecutor(num_processes, context, initializer=_take_one_core) as pool:
        running = {pool.submit(_run, name, job): (name, job.key) for name, job in jobs}
        try:
            for future in as_completed(running):
                yield *running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take_one_core() -> None:
    """Processes beside each other have a core each."""
    import torch

    torch.set_num_threads(1)


def _run(name: str, job: Job) -> Any:
    return FIGURES[name].run(job)


def draw(name: str, results: dict[str, Any], folder: Path) -> None:
    """Draw a figure as `<name>.svg` and `.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FIGURES[name].draw(results, figure)
    for form in FORMATS:
        figure.savefig(folder / f"{name}.{form}", dpi=120)
