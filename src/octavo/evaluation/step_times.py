"""Where a step's time goes: schedule, prepare, forward by kernel, logits, sample, wait, update."""

import time

import msgspec

from octavo.engine.engine import Engine
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

WARM_UP_STEPS = 3
PARTS = ("schedule", "prepare", "forward", "logits", "sample", "wait", "update")
"""Of a step of decode, in their order. What is left of its time is `rest`."""


class StepTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds a step, means over `steps` steps of a batch in decode."""

    sequences: int
    context: int
    """Tokens of each sequence when decode begins."""
    steps: int
    parts_ms: dict[str, float]
    kernels_ms: dict[str, float]
    """What `forward` is made of; empty for kernels that do not tell."""

    @property
    def total_ms(self) -> float:
        return sum(self.parts_ms.values())


GREEDY = SamplingParams(temperature=0)


def measure(
    engine: Engine, num_sequences: int, context: int, num_steps: int, sampling: SamplingParams = GREEDY
) -> StepTimes:
    """Prefill `num_sequences` requests of `context` tokens, then take times over `num_steps` steps of decode.

    Args:
        sampling: how tokens are chosen; requests do not end before their times are taken.

    Raises:
        RequestError: so many tokens do not fit.
    """
    num_ids = engine.executor.capacity.vocab_size
    params = msgspec.structs.replace(sampling, max_tokens=num_steps + WARM_UP_STEPS + num_sequences, ignore_eos=True)
    for number in range(num_sequences):
        prompt = [(number * 7919 + position * 31) % num_ids for position in range(context)]
        engine.add(EngineRequest(str(number), prompt, params, float(number), number))
    while engine.scheduler.num_waiting or not all(request.is_decoding for request in engine.scheduler.running):
        engine.step()
    for _ in range(WARM_UP_STEPS):
        engine.step()
    start, start_s = _times(engine), time.perf_counter()
    for _ in range(num_steps):
        engine.step()
    whole_s, end = time.perf_counter() - start_s, _times(engine)
    for number in range(num_sequences):
        engine.abort(str(number))
    parts, operations = (
        {name: (seconds - before.get(name, 0.0)) / num_steps * 1e3 for name, seconds in after.items()}
        for before, after in zip(start, end, strict=True)
    )
    parts_ms = {name: parts[name] for name in PARTS}
    parts_ms["rest"] = whole_s / num_steps * 1e3 - sum(parts_ms.values())
    return StepTimes(
        sequences=num_sequences, context=context, steps=num_steps, parts_ms=parts_ms, kernels_ms=operations
    )


def _times(engine: Engine) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds so far, by part of a step and by operation."""
    executor = engine.executor.times()
    return {**engine.watch.seconds, **executor.parts_s}, dict(executor.operations_s)


def plot(measured: list[StepTimes], path: str) -> None:
    """Draw each case's parts as a stacked bar, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = [f"{times.sequences} x {times.context}" for times in measured]
    bottom = [0.0] * len(measured)
    kernels = list(measured[0].kernels_ms)
    for part in [*kernels, *(part for part in measured[0].parts_ms if not kernels or part != "forward")]:
        heights = [(times.kernels_ms if part in kernels else times.parts_ms)[part] for times in measured]
        axes.bar(names, heights, bottom=bottom, label=part)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set(xlabel="sequences x context", ylabel="ms a step", title="Where a step's time goes")
    axes.legend()
    figure.savefig(path, dpi=120)
