"""A device's rates from real steps: rounds of requests of many shapes, and the rates that tell their times best."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import ConfigError
from octavo.evaluation.simulator.devices import KNOTS, Device
from octavo.evaluation.simulator.machine import precision_of
from octavo.evaluation.simulator.model_work import ModelWork, StepAmounts, count_work
from octavo.evaluation.simulator.replay import prompt_ids
from octavo.evaluation.simulator.step_model import StepModel
from octavo.evaluation.simulator.timed import TimedExecutor
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan
from octavo.execution.sizing import cache_record
from octavo.models.loader import resolve_cache_dtype
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

Floats = npt.NDArray[np.float64]

HELD_OUT = 5
"""One round of so many is not fitted to: the error is told of those."""
OUTPUT_TOKENS = (6, 24)
"""Of a round's requests."""
SHORTEST_PROMPT = 4
LEAST_BLOCKS = 32
MOVED_BLOCKS = 64
"""At once, to see how fast that is."""
GUESSES = {
    "context_bytes_s": 1e10,
    "attention_ops_s": 5e10,
    "activations_s": 1e9,
    "layer_s": 2e-5,
    "logits_s": 1e9,
}
"""Of a machine with two cores: where the search begins, and stays where no step tells otherwise."""
GUESSED_READ_S, GUESSED_TOKEN_S = 0.1, 0.01
"""The same, of products with 10^9 weights: seconds to read them, and for each token."""
PRIOR_WEIGHT = 1e-3
"""Of how far rates are from their guesses, beside how far steps are from their times."""
MOST_TURNS = 100
OUTLIER = 0.15
"""Logarithm of how far off a step's time is, from where on it weighs less."""
SHIFT = 1e-3
"""Of a logarithm, to see how errors change with it."""
MOST_OFF = math.log(1e4)
"""That a rate is from its guess."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """One real step."""

    round: int
    amounts: StepAmounts
    compute_s: float
    host_s: float
    """Of `Engine.step`, without the executor."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A device's rates, and what they were made from."""

    device: Device
    model: StepModel
    steps: list[MeasuredStep]


def calibrate(
    executor: LocalExecutor,
    config: EngineConfig,
    name: str,
    *,
    memory_bytes: int,
    seconds: float,
    seed: int = 0,
    told: Callable[[float], object] = lambda _: None,
) -> Calibration:
    """Measure steps of the model that the executor has loaded, and find the rates that tell them best.

    Args:
        config: that the executor was made with.
        name: what the device is to be called.
        memory_bytes: that was free before anything was loaded.
        seconds: of measuring steps.
        told: the seconds that have passed, after each round.

    Raises:
        ConfigError: the KV cache is too small for requests of any size.
    """
    if executor.capacity.num_blocks < LEAST_BLOCKS:
        raise ConfigError(
            f"the KV cache has {executor.capacity.num_blocks} blocks, and steps of many sizes need {LEAST_BLOCKS} at "
            "least: raise --kv-cache-memory"
        )
    cache_dtype = resolve_cache_dtype(config.kv_cache_dtype, executor.dtype)
    record = cache_record(config, executor.model_config, executor.capacity.layer_groups, cache_dtype)
    work, precision = count_work(executor.model_config, executor.build, record), precision_of(executor.build)
    steps = _measured(executor, work, config, seconds, seed, told)
    host_step_s, host_row_s = _host_costs(steps)
    copy_s, move_s = _block_seconds(executor)
    device = Device(
        name=name,
        source=f"octavo calibrate, {len(steps)} steps of {config.model} in {precision}",
        memory_bytes=memory_bytes,
        host_memory_bytes=memory_bytes,
        is_gpu=executor.build.device.type == "cuda",
        copy_bytes_s=work.block_bytes / copy_s,
        move_bytes_s=work.block_bytes / move_s,
        host_step_s=host_step_s,
        host_row_s=host_row_s,
        **_rates(np.array(_guesses()), precision),
    )
    kept = [step for step in steps if step.round % HELD_OUT]
    model = fitted(StepModel(work, device, precision), kept)
    errors = [abs(model.compute_s(step.amounts) / step.compute_s - 1) for step in steps if step.round % HELD_OUT == 0]
    device = msgspec.structs.replace(model.device, error=statistics.median(errors) if errors else None)
    return Calibration(device, replace(model, device=device), steps)


def _measured(
    executor: LocalExecutor,
    work: ModelWork,
    config: EngineConfig,
    seconds: float,
    seed: int,
    told: Callable[[float], object],
) -> list[MeasuredStep]:
    """Steps of rounds, one after another. The first round warms up."""
    timed = TimedExecutor(executor, work)
    generator, steps = random.Random(seed), []
    start_s, number = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - start_s) < seconds or number <= HELD_OUT:
        told(min(passed_s, seconds))
        engine = Engine.configured(timed, config)  # type: ignore[arg-type]
        requests = _round(generator, engine, number)
        steps += [step for step in _run_round(engine, timed, requests, number) if number]
        number += 1
    told(seconds)
    return steps


def _round(generator: random.Random, engine: Engine, number: int) -> list[EngineRequest]:
    """Requests that fit into the memory together: a few long ones, or many short ones, or any mixture."""
    limits, capacity = engine.scheduler.limits, engine.executor.capacity
    slots = capacity.num_blocks // len(capacity.layer_groups.groups) * capacity.block_size
    longest = capacity.max_model_len - OUTPUT_TOKENS[1]
    mean = math.exp(generator.uniform(math.log(SHORTEST_PROMPT), math.log(longest)))
    room = min(4 * limits.max_num_batched_tokens, slots // 2)
    most = max(1, min(limits.max_num_seqs, int(room / (mean + OUTPUT_TOKENS[1]))))
    count = round(math.exp(generator.uniform(0, math.log(most))))
    vocab_size = capacity.vocab_size
    requests = []
    for place in range(count):
        num_prompt = min(longest, max(1, round(mean * generator.uniform(0.5, 1.5))))
        params = SamplingParams(temperature=0, max_tokens=generator.randint(*OUTPUT_TOKENS), ignore_eos=True)
        own = number * limits.max_num_seqs + place
        requests.append(EngineRequest(str(own), prompt_ids(own, num_prompt, vocab_size), params, 0.0, own))
    return requests


def _run_round(
    engine: Engine, timed: TimedExecutor, requests: list[EngineRequest], number: int
) -> Iterator[MeasuredStep]:
    """Half of the requests are there from the start, and one comes with each step after that: so prompts are computed
    beside others' decode."""
    coming = requests[::-1]
    for _ in range(len(coming) // 2 + 1):
        engine.add(coming.pop())
    while engine.has_unfinished:
        timed.steps.clear()
        start_s = time.perf_counter()
        engine.step()
        whole_s = time.perf_counter() - start_s
        for amounts, seconds in timed.steps:
            yield MeasuredStep(number, amounts, seconds, whole_s - seconds)
        if coming:
            engine.add(coming.pop())


def _host_costs(steps: list[MeasuredStep]) -> tuple[float, float]:
    """Seconds a step and seconds a row, as a line through the medians of steps with about as many rows."""
    by_rows: dict[int, list[MeasuredStep]] = {}
    for step in steps:
        by_rows.setdefault(step.amounts.num_rows.bit_length(), []).append(step)
    rows = np.array([statistics.mean(step.amounts.num_rows for step in own) for own in by_rows.values()])
    seconds = np.array([statistics.median(step.host_s for step in own) for own in by_rows.values()])
    if len(rows) < 2:
        return float(seconds[0]), 0.0
    slope, start = np.polyfit(rows, seconds, 1, w=1 / seconds)
    return max(0.0, float(start)), max(0.0, float(slope))


def _block_seconds(executor: LocalExecutor) -> tuple[float, float]:
    """Seconds to copy a block, and to move one to the swap space or back; without a swap space, as to copy it."""
    capacity = executor.capacity
    count = min(MOVED_BLOCKS, capacity.num_blocks // 2)
    copies = Plan(copies=[(block, count + block) for block in range(count)])
    executor.submit(copies).result()  # memory that nobody may have touched before
    start_s = time.perf_counter()
    executor.submit(copies).result()
    copy_s = (time.perf_counter() - start_s) / count
    swapped = min(count, capacity.num_swap_blocks)
    if not swapped:
        return copy_s, copy_s
    moves = [(block, block) for block in range(swapped)]
    executor.submit(Plan(swap_out=moves)).result()
    moved = [executor.submit(plan).result().move_s for plan in (Plan(swap_out=moves), Plan(swap_in=moves))]
    return copy_s, sum(moved) / 2 / swapped


def _guesses() -> list[float]:
    """Logarithms of the rates by their names, then of the products' seconds at `KNOTS`."""
    curve = [GUESSED_READ_S + GUESSED_TOKEN_S * tokens for tokens in KNOTS]
    return [math.log(number) for number in (*GUESSES.values(), *curve)]


def _rates(logs: Floats, precision: str) -> dict[str, Any]:
    """The fields of a device that such logarithms are. No product takes less time than one of fewer tokens."""
    numbers = np.exp(logs).tolist()
    curve = zip(KNOTS, accumulate(numbers[len(GUESSES) :], max), strict=True)
    return {**dict(zip(GUESSES, numbers, strict=False)), "products": {precision: list(curve)}, "step_s": 0.0}


def fitted(model: StepModel, steps: list[MeasuredStep]) -> StepModel:
    """The model with the rates whose logarithms give the least squared errors of the logarithms of the steps' times
    (Levenberg, 1944; Marquardt, 1963). Steps that something else has held up weigh less (Huber, 1964)."""
    guesses = np.array(_guesses())

    def with_rates(logs: Floats) -> StepModel:
        return replace(model, device=msgspec.structs.replace(model.device, **_rates(logs, model.precision)))

    def errors(logs: Floats) -> Floats:
        own = with_rates(logs)
        return np.log([own.compute_s(step.amounts) / step.compute_s for step in steps])

    def cost(logs: Floats, off: Floats) -> float:
        size = np.abs(off)
        huber = np.where(size < OUTLIER, size**2 / 2, OUTLIER * (size - OUTLIER / 2))
        return float(huber.mean() + PRIOR_WEIGHT * ((logs - guesses) ** 2).mean())

    logs, damping = guesses, 1e-2
    off = errors(logs)
    for _ in range(MOST_TURNS):
        slopes = np.stack([(errors(logs + shift) - off) / SHIFT for shift in SHIFT * np.eye(len(logs))], axis=1)
        weights = np.minimum(1, OUTLIER / np.maximum(np.abs(off), 1e-12)) / len(off)
        prior = PRIOR_WEIGHT * 2 / len(logs)
        curvature = slopes.T @ (weights[:, None] * slopes) + prior * np.eye(len(logs))
        gradient = slopes.T @ (weights * off) + prior * (logs - guesses)
        before = cost(logs, off)
        while damping < 1e6:
            tried = logs - np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
            tried = np.clip(tried, guesses - MOST_OFF, guesses + MOST_OFF)
            tried_off = errors(tried)
            if cost(tried, tried_off) < before:
                break
            damping *= 4
        else:
            break
        logs, off, damping = tried, tried_off, damping / 4
        if before - cost(logs, off) < 1e-7 * before:
            break
    return with_rates(logs)
