"""What a benchmark is: counts as flags, a measurement, and figures that are written at its end."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from octavo.cli.bench.output import add_output_flags, check_output_flags, write_figures
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.shapes import SHAPES, TOKENIZER, shape_folder

if TYPE_CHECKING:
    from octavo.execution.executor import Executor


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark has measured, once it has printed it."""

    figures: Any
    """A struct or a list of structs, written by `--json`."""
    plot: Callable[[Any, str], None] | None = None
    """Draws the figures into a file, for `--plot`."""


def add_count_flag(
    flags: argparse.ArgumentParser | argparse._ArgumentGroup,
    name: str,
    default: int | list[int],
    help: str,
    *,
    shown: str | None = None,
) -> None:
    """A flag for a number of at least one, or for several where the default is a list; `finish_parser` has it checked.

    Args:
        name: `--output-tokens`.
        shown: how the help tells the default, where that is not its numbers; empty leaves it out.
    """
    if shown is None:
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    action = flags.add_argument(
        name,
        type=int,
        nargs="+" if isinstance(default, list) else None,
        default=default,
        metavar="N",
        help=f"{help} (default: {shown})" if shown else help,
    )
    flags.set_defaults(counts=[*(flags.get_default("counts") or []), action.dest])


def finish_parser(
    parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Outcome], *, plots: bool = True
) -> None:
    """Add the flags for what is written, after the benchmark's own, and what to run.

    Args:
        measure: measures, prints, and returns what is to be written.
        plots: whether there is something to draw.
    """
    add_output_flags(parser, plots=plots)
    parser.set_defaults(run=_run, measure=measure)


def finish_engine_parser(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, EngineConfig], Outcome],
    *knobs: str,
    plots: bool = True,
) -> None:
    """As `finish_parser`, with flags for an engine's knobs, all of them or those named, and one for a model's shape."""

    def measure_model(arguments: argparse.Namespace) -> Outcome:
        config = read_config_flags(arguments, EngineConfig)
        if arguments.shape is None:
            return measure(arguments, config)
        with _shaped(config, arguments.shape) as shaped:
            return measure(arguments, shaped)

    finish_parser(parser, measure_model, plots=plots)
    parser.add_argument(
        "--shape",
        choices=sorted(SHAPES),
        help="in place of a model: random weights (--seed) of a LLaMA or OPT of this size, with smollm2's tokenizer",
    )
    # Random tokens and weights make a model repeat itself, which is no gain that people have.
    add_config_flags(parser, EngineConfig, *knobs, speculate="off")


@contextlib.contextmanager
def _shaped(config: EngineConfig, shape: str) -> Iterator[EngineConfig]:
    """The config with random weights of a shape as its model.

    Raises:
        ConfigError: it names a model, or the format of one's weights.
    """
    if config.model != EngineConfig().model:
        raise ConfigError(f"--shape {shape} stands in place of a model, and --model is {config.model}: leave one out")
    if config.load_format not in ("auto", "dummy"):
        raise ConfigError(f"--shape {shape} makes up its weights: leave out --load-format {config.load_format}")
    with shape_folder(shape) as folder:
        tokenizer = config.tokenizer or TOKENIZER
        yield replace(config, model=str(folder), load_format="dummy", tokenizer=tokenizer)


@contextlib.contextmanager
def opened_executor(config: EngineConfig) -> "Iterator[Executor]":
    """The executor that a config asks for, closed in the end.

    Raises:
        OctavoError: the model cannot be loaded.
    """
    from octavo.execution.launch import executor_class

    with contextlib.closing(executor_class(config)(config)) as executor:
        yield executor


def _run(arguments: argparse.Namespace) -> None:
    """Check the flags, measure, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong, or what is to be run does not fit.
    """
    for name in arguments.counts:
        _check_positive(name, getattr(arguments, name))
    check_output_flags(arguments)
    outcome: Outcome = arguments.measure(arguments)
    write_figures(arguments, outcome.figures, outcome.plot)


def _check_positive(name: str, value: int | list[int]) -> None:
    if min(value if isinstance(value, list) else [value]) < 1:
        raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
