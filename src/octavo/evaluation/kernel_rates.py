"""Each kernel alone: the bytes and operations it gets through in a second, beside what the machine could."""

from collections.abc import Iterator

import msgspec
import torch

from octavo.evaluation.kernel_cases import Case, KernelWork, cases
from octavo.evaluation.kernel_names import WEIGHT_PRECISIONS
from octavo.evaluation.machine_limits import Drift, MachineLimits
from octavo.evaluation.timing import median_s

MEASURED_S = 0.3

_MARKERS = {"product": "o", "logits": "^", "decode": "s", "prefill": "D"}


class KernelRate(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel on one shape; medians."""

    kind: str
    shape: str
    precision: str
    """Of the weights, the KV or the activations."""
    rows: int
    """Tokens in the step."""
    microseconds: float
    gb_s: float
    """Of weights or KV; for a norm, an activation and a copy, of all that is read and written."""
    gop_s: float
    """Multiplications and additions; 0 where they are beside the point."""
    share_of_limit: float
    """The least time that the machine's limits allow, over the time taken. Over 1 where data stays in caches."""
    waits_for: str
    """Which limit is the slower one: `memory` or `products`."""
    read_gb_s: float
    float32_gop_s: float
    """The limits of memory and of products in float32 right after this measurement: a machine's speed moves."""


class KernelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    limits: MachineLimits
    kernels: list[KernelRate]


def measure_kernels(work: KernelWork, limits: MachineLimits) -> Iterator[KernelRate]:
    """One figure after another, as `kernel_cases.count_cases` counts them.

    Args:
        limits: just measured.
    """
    drift = Drift(work.backend)
    for case in cases(work):
        with torch.inference_mode():
            seconds = median_s(case.call, MEASURED_S) / case.count
        yield _rate(case, seconds, drift.limits_now(limits))


def _rate(case: Case, seconds: float, limits: MachineLimits) -> KernelRate:
    bound = limits.bound(case.num_bytes, case.operations)
    return KernelRate(
        kind=case.kind,
        shape=case.shape,
        precision=case.precision,
        rows=case.rows,
        microseconds=seconds * 1e6,
        gb_s=case.num_bytes / seconds / 1e9,
        gop_s=sum(case.operations.values()) / seconds / 1e9,
        share_of_limit=bound.seconds / seconds,
        waits_for=bound.waits_for,
        read_gb_s=limits.read_gb_s,
        float32_gop_s=limits.product_rate("float32"),
    )


def plot(figures: KernelFigures, path: str) -> None:
    """Draw operations a second against operations a byte, under the roofs of memory and products, as a PNG.

    Kernels without operations to count are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shown = [each for each in figures.kernels if each.gop_s > 0]
    intensities = [each.gop_s / each.gb_s for each in shown] or [1.0]
    for number, precision in enumerate(WEIGHT_PRECISIONS):
        colour, roof = f"C{number}", figures.limits.product_rate(precision)
        ends = [min(intensities) / 2, roof / figures.limits.read_gb_s, max(intensities) * 2]
        heights = [min(roof, x * figures.limits.read_gb_s) for x in ends]
        axes.plot(ends, heights, color=colour, linestyle="--", linewidth=1)
        for kind, marker in _MARKERS.items():
            points = [each for each in shown if (each.kind, each.precision) == (kind, precision)]
            if points:
                x, y = [p.gop_s / p.gb_s for p in points], [p.gop_s for p in points]
                axes.scatter(x, y, s=18, color=colour, marker=marker, label=f"{kind}, {precision}")
    axes.set(
        xscale="log", yscale="log", xlabel="operations a byte from memory", ylabel="billions of operations a second"
    )
    axes.set_title(f"Kernels below the machine's limits (dashed), {figures.limits.num_threads} threads")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=120)
