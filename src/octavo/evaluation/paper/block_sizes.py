"""Latency with blocks of each size, as figures 18 and 19 have it."""

from typing import Any

from octavo.evaluation.paper.runs import served
from octavo.evaluation.paper.setups import OPT_13B, PAGED
from octavo.evaluation.paper.workload import Workload

SIZES, QUICK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 16, 64, 256)
RATES = {"sharegpt": (1.8, 3.0), "alpaca": (28.0, 45.0)}
"""Requests a second, in full and quick: nearly as many as are sustained with blocks of 16."""
SECONDS = {"sharegpt": (600.0, 80.0), "alpaca": (100.0, 15.0)}
"""For which they come."""


def sizes(quick: bool) -> tuple[int, ...]:
    """Tokens of a block."""
    return QUICK_SIZES if quick else SIZES


def latency_s(dataset: str, block_size: int, quick: bool, preemption_mode: str = "recompute") -> float:
    """The mean normalized latency, on OPT-13B's GPU."""
    rate = RATES[dataset][quick]
    count = round(rate * SECONDS[dataset][quick])
    knobs: dict[str, Any] = {"block_size": block_size, "preemption_mode": preemption_mode}
    return served(OPT_13B, PAGED, Workload(dataset), rate, count, **knobs).figures().normalized_latency_s.mean


def by_size(results: dict[str, Any], kind: str) -> dict[int, Any]:
    """What the jobs `kind/<block size>` gave, by block size, the smallest first."""
    found = {int(key.partition("/")[2]): own for key, own in results.items() if key.startswith(f"{kind}/")}
    return dict(sorted(found.items()))


def draw_sizes(axes: Any, curves: dict[str, dict[int, float]], ylabel: str, *, by_ratios: bool = False) -> None:
    """A line for each curve, of numbers by block size.

    Args:
        by_ratios: the numbers are told apart by their ratios.
    """
    for label, numbers in curves.items():
        axes.plot(list(numbers), list(numbers.values()), "o-", markersize=3, label=label)
    shown = sorted({size for numbers in curves.values() for size in numbers})
    axes.set_xscale("log", base=2)
    axes.set_xticks(shown, [str(size) for size in shown])
    axes.set(xlabel="block size (tokens)", ylabel=ylabel)
    if by_ratios:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
