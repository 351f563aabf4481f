"""Percentiles, as the benchmarks tell them."""

from collections.abc import Sequence

import numpy as np

PERCENTILES = (50, 90, 99)


def percentiles_ms(seconds: Sequence[float]) -> list[float]:
    """Milliseconds at each of `PERCENTILES`; empty where nothing was measured."""
    if not seconds:
        return []
    return [round(float(value) * 1e3, 3) for value in np.percentile(seconds, PERCENTILES)]
