"""Where a step's time goes: schedule, prepare, forward by kernel, logits, sample, update."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.execution.local import LocalExecutor
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

WARM_UP_STEPS = 3


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


class _Stopwatch:
    """Replaces methods of live objects by timed ones, and puts them back."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._replaced: list[tuple[Any, str]] = []

    def watch(self, owner: Any, method: str, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)
        self.seconds[name] = 0.0

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, method, timed)
        self._replaced.append((owner, method))

    def release(self) -> None:
        for owner, method in self._replaced:
            delattr(owner, method)


def load(config: EngineConfig) -> tuple[Engine, LocalExecutor]:
    """An engine with the model in this process.

    Raises:
        OctavoError: as `LocalExecutor`.
    """
    executor = LocalExecutor(config)
    return Engine.configured(executor, config), executor


def measure(engine: Engine, executor: LocalExecutor, num_sequences: int, context: int, num_steps: int) -> StepTimes:
    """Prefill `num_sequences` greedy requests of `context` tokens, then take times over `num_steps` steps of decode.

    Raises:
        RequestError: so many tokens do not fit.
    """
    num_ids = executor.capacity.vocab_size
    params = SamplingParams(temperature=0, max_tokens=num_steps + WARM_UP_STEPS + num_sequences, ignore_eos=True)
    for number in range(num_sequences):
        prompt = [(number * 7919 + position * 31) % num_ids for position in range(context)]
        engine.add(EngineRequest(str(number), prompt, params, float(number), number))
    while engine.scheduler.num_waiting or not all(request.is_decoding for request in engine.scheduler.running):
        engine.step()
    for _ in range(WARM_UP_STEPS):
        engine.step()
    runner = executor.runner
    watch = _Stopwatch()
    for owner, method, name in (
        (engine, "step", "step"),
        (engine.scheduler, "schedule", "schedule"),
        (runner, "prepare", "prepare"),
        (runner.forward, "run", "forward"),
        (runner.forward, "logits", "logits"),
        (runner, "sample", "sample"),
        (engine.scheduler, "update", "update"),
    ):
        watch.watch(owner, method, name)
    profile = getattr(runner.forward, "profile", None)
    if profile is not None:
        profile()
    try:
        for _ in range(num_steps):
            engine.step()
    finally:
        watch.release()
        for number in range(num_sequences):
            engine.abort(str(number))
    kernels = runner.forward.seconds_by_operation() if profile is not None else {}  # type: ignore[attr-defined]
    per_step = {name: seconds / num_steps * 1e3 for name, seconds in watch.seconds.items()}
    per_step["sample"] -= per_step["logits"]
    whole = per_step.pop("step")
    per_step["rest"] = whole - sum(per_step.values())
    return StepTimes(
        sequences=num_sequences,
        context=context,
        steps=num_steps,
        parts_ms=per_step,
        kernels_ms={name: seconds / num_steps * 1e3 for name, seconds in kernels.items()},
    )


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
