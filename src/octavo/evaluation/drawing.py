"""What several plots draw alike."""

from collections.abc import Sequence
from typing import Any


def paired_bars(
    axes: Any, names: Sequence[str], first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]]
) -> None:
    """Two bars side by side at each name, with a legend.

    Args:
        axes: matplotlib's.
        first, second: a label, and a number for each name.
    """
    places = range(len(names))
    for offset, (label, numbers) in zip((-0.2, 0.2), (first, second), strict=True):
        axes.bar([place + offset for place in places], list(numbers), 0.4, label=label)
    axes.set_xticks(places, list(names))
    axes.legend()
