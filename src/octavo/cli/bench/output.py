"""Where a benchmark's figures go, its progress and its tables' cells."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from octavo.errors import ConfigError
from octavo.evaluation.json_figures import as_json

Item = TypeVar("Item")
Figures = TypeVar("Figures")


def add_output_flags(parser: argparse.ArgumentParser, *, plots: bool = True) -> None:
    """`--json` and, where there is something to draw, `--plot`."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.set_defaults(plot=None)
    if plots:
        group.add_argument(
            "--plot", metavar="FILE.png", help="draw the figures here (needs matplotlib: pip install 'octavo[bench]')"
        )


def check_output_flags(arguments: argparse.Namespace) -> None:
    """Make sure, before anything is measured, that the figures can be written.

    Raises:
        ConfigError: a folder does not exist, or matplotlib is missing.
    """
    for path in filter(None, (arguments.json, arguments.plot)):
        check_folder_of(path)
    if arguments.plot:
        check_matplotlib("--plot")
        check_drawable(arguments.plot)


def check_folder_of(path: str) -> None:
    """Make sure that a file can be written.

    Raises:
        ConfigError: its folder does not exist, or it is one.
    """
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"there is no folder for {path}")
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file in it")


def check_drawable(path: str) -> None:
    """Make sure that matplotlib, which is there, draws files of this kind.

    Raises:
        ConfigError: it does not.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kind, known = Path(path).suffix[1:].lower(), FigureCanvasBase.get_supported_filetypes()
    if kind and kind not in known:
        raise ConfigError(f"--plot {path}: no figure can be drawn as .{kind}; known are {', '.join(sorted(known))}")


def check_matplotlib(what: str) -> None:
    """Make sure that figures can be drawn.

    Raises:
        ConfigError: `what` needs matplotlib, and it is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what} needs matplotlib: pip install 'octavo[bench]'") from None


def write_figures(
    arguments: argparse.Namespace, figures: Figures, plot: Callable[[Figures, str], None] | None = None
) -> None:
    """The figures as JSON and drawn by `plot(figures, path)`, where asked for."""
    if arguments.json:
        Path(arguments.json).write_bytes(as_json(figures))
    if arguments.plot and plot:
        plot(figures, arguments.plot)


def progress_bar(total: int, unit: str, what: str = "Measuring") -> tqdm:
    """A bar on stderr, where that is a terminal; to be closed, or used as a context."""
    return tqdm(
        total=total,
        unit=unit,
        desc=what,
        leave=False,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )


def progress(items: Iterable[Item], total: int) -> Iterator[Item]:
    """The items, with a bar that goes on as they are taken."""
    with progress_bar(total, "case") as bar:
        for item in items:
            yield item
            bar.update()


def milliseconds(percentiles: list[float]) -> str:
    """A table's cells for p50, p90 and p99, dashes where nothing was measured."""
    return "".join(f"{value:9.2f}" for value in percentiles) or f"{'-':>9}" * 3
