"""Replays, sweeps and plans, drawn."""

import math

from octavo.evaluation.simulator.plan import Option
from octavo.evaluation.simulator.sweep import Tried
from octavo.evaluation.simulator.tally import Tally


def plot(tally: Tally, path: str) -> None:
    """Draw requests and KV memory over a replay's time, of one replica, as a PNG."""
    from matplotlib.figure import Figure

    seconds = [second for second, _ in tally.moments.shown]
    held = [holdings for _, holdings in tally.moments.shown]
    figure = Figure(figsize=(7, 5), layout="constrained")
    requests, memory = figure.subplots(2, sharex=True)
    requests.plot(seconds, [each.running for each in held], label="running")
    requests.plot(seconds, [each.waiting for each in held], label="waiting")
    requests.set(ylabel="requests")
    kinds = ("token_states", "reserved", "internal", "external", "cached")
    shares = [[100 * getattr(each, kind) for each in held] for kind in kinds]
    memory.stackplot(seconds, shares, labels=[kind.replace("_", " ") for kind in kinds])
    memory.set(xlabel="seconds", ylabel="KV memory (%)", ylim=(0, 100))
    for axes in (requests, memory):
        axes.legend(loc="upper left", fontsize="small")
    requests.set_ylim(bottom=0)
    requests.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def plot_sweep(tried: list[Tried], path: str) -> None:
    """Draw latencies against rates, as a PNG; what was not sustained is hollow, and what was given up an arrow: it
    would have gone on to rise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(tried, key=lambda each: each.rate)
    rates = [each.rate for each in ordered]
    for label, seconds in (
        ("normalized latency, mean", [each.figures.normalized_latency_s.mean for each in ordered]),
        ("time to first token, p90", [each.figures.first_token_s.p90 for each in ordered]),
        (
            "time per output token, p90",
            [each.figures.token_s.p90 if each.figures.token_s else math.nan for each in ordered],
        ),
    ):
        drawn = [math.nan if each.is_given_up else second for second, each in zip(seconds, ordered, strict=True)]
        [line] = axes.plot(rates, drawn, label=label)
        for rate, second, each in zip(rates, seconds, ordered, strict=True):
            face = line.get_color() if each.is_sustained else "white"
            marker = "^" if each.is_given_up else "o"
            axes.plot([rate], [second], marker, color=line.get_color(), markerfacecolor=face)
    axes.set(xlabel="requests/s", ylabel="seconds", yscale="log")
    axes.set_title("hollow: not sustained; arrows: given up while it rose", fontsize="small")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def plot_options(options: list[Option], path: str) -> None:
    """Draw what a device of each kind of machine sustains, and the price of a thousand requests, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    rates, prices = figure.subplots(1, 2, sharey=True)
    names = [each.name for each in options]
    rates.barh(names, [each.rate_a_device for each in options])
    rates.set(xlabel="requests/s a device")
    prices.barh(names, [each.price_1000 or 0.0 for each in options])
    prices.set(xlabel="price of 1000 requests")
    rates.invert_yaxis()
    for axes in (rates, prices):
        axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)
