"""What a decoded token costs: tokens a second against batch and context, each beside the limit of the machine.

The sequences' KV is not computed: the step of their prompts is planned and followed, so that blocks and tables are
those of real requests, and the cache's memory is written once. What lies in the KV does not change a step's cost.
"""

import statistics
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.machine_limits import Drift, MachineLimits
from octavo.evaluation.operation_models import VALID_BYTE
from octavo.execution.executor import ExecutionTimes, PendingOutput
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan, StepOutput
from octavo.execution.sizing import weight_bytes
from octavo.models.registry import build_model
from octavo.sampling_params import SamplingParams
from octavo.scheduling.choosing import HEADROOM
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import Grammar, ReasoningSection

WARM_UP_STEPS = 2


class DecodeCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a step of decode reads and does at the least."""

    weight_bytes: int
    """Of the products' weights, read once a step."""
    num_weights: int
    """Numbers in them: two operations each and token."""
    precision: str
    """Of the products."""
    kv_bytes: float
    """Of a token's K and V, all layers."""
    attention_operations: float
    """Of a new token for each token that it sees, all layers."""
    logits_bytes: int
    """Of a row."""

    def bytes_of(self, batch: int, context: float) -> float:
        """Read, but for the logits, which are written."""
        return self.weight_bytes + batch * (context * self.kv_bytes + self.logits_bytes)

    def operations_of(self, batch: int, context: float) -> dict[str, float]:
        """By precision. Attention is computed in float32."""
        operations = {"float32": batch * context * self.attention_operations}
        operations[self.precision] = operations.get(self.precision, 0) + 2.0 * batch * self.num_weights
        return operations


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that decodes."""

    batch: int
    context: int
    """Tokens of each sequence at the last step."""
    tokens_a_second: float
    """The batch over the median step, everything in it: schedule, forward, sampling, update."""
    limit_tokens_a_second: float
    waits_for: str
    """What the limit comes from: `memory` or `products`."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run."""

    limits: MachineLimits
    cost: DecodeCost
    points: list[CurvePoint]


class _UncomputedPrefill:
    """An executor that follows plans without computing them while `skips`, giving token 0, and computes them later."""

    depth = 1

    def __init__(self, executor: LocalExecutor) -> None:
        self.skips = True
        self.capacity, self.loaded, self.sockets = executor.capacity, executor.loaded, executor.sockets
        self._executor = executor

    def submit(self, plan: Plan) -> PendingOutput:
        if not self.skips:
            return self._executor.submit(plan)
        runner = self._executor.runner
        runner.follow(plan)
        token_ids = np.zeros(len(plan.sampled_rows), np.int64)
        runner.rows.append(np.array(plan.sampled_rows, np.int64), token_ids)
        return PendingOutput.ready(StepOutput([[0] for _ in plan.sampled_rows]))

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[Any]:
        return self._executor.prepare(wanted)

    def check(self) -> None:
        self._executor.check()

    def times(self) -> ExecutionTimes:
        return self._executor.times()

    def close(self) -> None:
        self._executor.close()


class CurveBench:
    """A model in this process, whose cache is written, ready to decode any batch.

    Raises:
        OctavoError: as `LocalExecutor`.
    """

    def __init__(self, config: EngineConfig, num_steps: int) -> None:
        self._num_steps = num_steps
        self.executor = LocalExecutor(config)
        self.executor.runner.cache.records.fill_(VALID_BYTE)
        self.cost = _cost_of(self.executor)

    def blocks_needed(self, batch: int, context: int) -> int:
        """By the sequences, with what the scheduler keeps free beside them."""
        return batch * -(-(context + 1) // self.executor.capacity.block_size) + -(-batch // HEADROOM)

    def fits(self, batch: int, context: int) -> bool:
        """Whether so many sequences decode at once, in memory and in the model's length."""
        capacity = self.executor.capacity
        return (
            self._num_steps + WARM_UP_STEPS < context < capacity.max_model_len
            and self.blocks_needed(batch, context) <= capacity.num_blocks
        )

    def decode(self, batch: int, context: int) -> list[float]:
        """Seconds of each step after the warm-up; after the last, each sequence has `context` tokens."""
        executor = _UncomputedPrefill(self.executor)
        engine = Engine(executor, max_num_seqs=batch, max_num_batched_tokens=batch * context)
        num_prompt = context - self._num_steps - WARM_UP_STEPS
        params = SamplingParams(temperature=0, max_tokens=context + 1 - num_prompt, ignore_eos=True)
        for number in range(batch):
            engine.add(EngineRequest(str(number), [0] * num_prompt, params, float(number), number))
        engine.step()
        executor.skips = False
        seconds = []
        for _ in range(WARM_UP_STEPS + self._num_steps):
            start = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - start)
        for number in range(batch):
            engine.abort(str(number))
        return seconds[WARM_UP_STEPS:]

    def point(self, batch: int, context: int, limits: MachineLimits, drift: Drift) -> CurvePoint:
        """Measure one, and the machine beside it."""
        seconds = statistics.median(self.decode(batch, context))
        mean_context = context - (self._num_steps - 1) / 2
        bound = drift.limits_now(limits).bound(
            self.cost.bytes_of(batch, mean_context), self.cost.operations_of(batch, mean_context)
        )
        return CurvePoint(
            batch=batch,
            context=context,
            tokens_a_second=batch / seconds,
            limit_tokens_a_second=batch / bound.seconds,
            waits_for=bound.waits_for,
        )


def _cost_of(executor: LocalExecutor) -> DecodeCost:
    model, shape = executor.model_config, executor.runner.cache.shape
    build = executor.build.on_meta()
    numbers = weight_bytes(model, replace(build, quantization="none", forms={})) // executor.dtype.itemsize
    looked_up = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    named = build_model(model, build).named_parameters()
    table_bytes = sum(parameter.nbytes for name, parameter in named if name.startswith("embed_tokens."))
    return DecodeCost(
        weight_bytes=executor.loaded.weight_bytes - (table_bytes if looked_up else 0),
        num_weights=numbers - looked_up,
        precision="int8" if executor.loaded.weights else executor.loaded.dtype,
        kv_bytes=shape.block_bytes / shape.block_size,
        attention_operations=4.0 * model.num_hidden_layers * model.num_attention_heads * model.head_dim,
        logits_bytes=4 * model.vocab_size,
    )


def plot(curve: Curve, path: str) -> None:
    """Draw tokens a second against batch, one line a context, its limit dashed, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, context in enumerate(sorted({point.context for point in curve.points})):
        line = [point for point in curve.points if point.context == context]
        batches = [point.batch for point in line]
        rates, limits = [p.tokens_a_second for p in line], [p.limit_tokens_a_second for p in line]
        axes.plot(batches, rates, marker="o", markersize=4, color=f"C{number}", label=f"{context:,} tokens each")
        axes.plot(batches, limits, linestyle="--", linewidth=1, color=f"C{number}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    batches = sorted({point.batch for point in curve.points})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set(xlabel="sequences in decode", ylabel="tokens a second", title="Decode, and the machine's limit (dashed)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
