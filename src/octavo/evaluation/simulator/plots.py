"""A replay, drawn."""

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
