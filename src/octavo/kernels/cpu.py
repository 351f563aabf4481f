"""The C++ backend for the CPU. Its operations don't compute, but for sampling: they record.

`CpuKernels.bind` runs the model's forward once with handles (`Activation`) in place of tensors; each operation that the
layers call is added to a program of `octavo.kernels._cpu`, bound to its packed weights. A step then replays the program
in one call. So a model is written once, for this backend and for those that compute as they go, and a step costs no
Python work a layer.

Activations are float32 throughout, sums too, whatever the weights are stored in.
"""

import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.kernels import _cpu
from octavo.kernels.interface import (
    ActivationKind,
    AttentionSpec,
    AttentionStep,
    CacheShape,
    ForwardPass,
    KVCache,
    Model,
    RaggedBatch,
    Ranks,
    Weight,
)
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores
from octavo.kernels.sampling.logprobs import score_tokens
from octavo.kernels.sampling.sampler import sample

DATA_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
"""As `octavo::DataType` in csrc/kernels.h numbers them."""

ACTIVATIONS: dict[ActivationKind, int] = {"relu": 0, "gelu": 1, "gelu_tanh": 2, "silu": 3}
"""As `octavo::Activation` in csrc/kernels.h numbers them."""

LARGEST_INPUT = 1 << 16
"""Inputs of an int8 product, at the most: a sum of more could leave 32 bits."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Stands for a tensor `[num_tokens, width]` while a forward pass is recorded: a buffer of the program."""

    buffer: int
    width: int


class CpuKernels:
    """`kernels.interface.Kernels` for float32, bfloat16, float16 and int8 weights and KV caches, in C++.

    Args:
        instruction_set: avx512, avx2 or portable; auto takes the best that the processor has.

    Raises:
        ValueError: the processor cannot run that instruction set.
    """

    name = "cpu"

    def __init__(self, instruction_set: str = "auto") -> None:
        self.instruction_set = _cpu.instruction_set(instruction_set)
        self._recording: Recording | None = None

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache, its pages taken from the system when first written; large ones where it has them, as a step
        visits every block of its rows and small ones would each cost a walk through the page table."""
        memory = mmap.mmap(-1, shape.num_bytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        return KVCache(shape, torch.frombuffer(memory, dtype=torch.uint8).view(shape.num_blocks, shape.block_bytes))

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records (`[n]` int64 block ids each), several at once."""
        _cpu.copy_blocks(
            source.records.data_ptr(),
            destination.records.data_ptr(),
            source.shape.block_bytes,
            source_ids.numpy(),
            destination_ids.numpy(),
        )

    def bind(self, model: Model, cache: KVCache) -> ForwardPass:
        """Record the model's forward pass. Each weight is packed and its parameter emptied on the way, so that the
        model is never in memory twice."""
        self._recording = Recording(self.instruction_set, cache)
        try:
            return self._recording.of(model)
        finally:
            self._recording = None

    def embedding(self, ids: Any, weight: Weight, scale: float = 1.0, *, first_id: int = 0) -> Any:
        """Record the lookup of each token's row."""
        return self._open.embedding(ids, weight, scale, first_id)

    def add(self, a: Any, b: Any) -> Any:
        """Record a sum."""
        return self._open.add(a, b)

    def linear(self, hidden: Any, weight: Weight, bias: torch.Tensor | None = None) -> Any:
        """Record a product; int8 where the weight is."""
        return self._open.linear(hidden, weight, bias)

    def rms_norm(self, hidden: Any, weight: torch.Tensor, eps: float, residual: Any = None) -> tuple[Any, Any]:
        """Record a residual sum and its norm."""
        return self._open.norm(hidden, weight, None, eps, residual, centred=False)

    def layer_norm(
        self, hidden: Any, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, residual: Any = None
    ) -> tuple[Any, Any]:
        """Record a residual sum and its norm."""
        return self._open.norm(hidden, weight, bias, eps, residual, centred=True)

    def activation(self, hidden: Any, kind: ActivationKind) -> Any:
        """Record the activation."""
        return self._open.activation(hidden, kind, hidden.width)

    def activation_and_mul(self, gate_up: Any, kind: ActivationKind) -> Any:
        """Record the activation and product."""
        return self._open.activation(gate_up, kind, gate_up.width // 2)

    def experts(
        self,
        hidden: Any,
        router: torch.Tensor,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: ActivationKind,
    ) -> Any:
        """Record the scores and the experts; their products are int8 where the weights are."""
        return self._open.experts(hidden, router, gate_up, down, num_chosen, kind)

    def all_reduce(self, hidden: Any, ranks: Ranks) -> Any:
        """Record a call of `ranks`, in which the step's threads wait."""
        return hidden if ranks.size == 1 else self._open.all_reduce(hidden, ranks)

    def gather(self, logits: Any, ranks: Ranks, width: int) -> Any:
        """Take note that the head's products are to be gathered."""
        return logits if ranks.size == 1 else self._open.gather(logits, ranks, width)

    def attention(self, qkv: Any, step: Any, spec: AttentionSpec) -> Any:
        """Record norms, rotation, KV write and attention."""
        return self._open.attention(qkv, spec)

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """As the reference does, by numpy where that is faster."""
        return sample(logits, batch)

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """As the reference does."""
        return score_tokens(logits, token_ids, num_top)

    @property
    def _open(self) -> "Recording":
        if self._recording is None:
            raise RuntimeError("the CPU kernels record: their operations are called inside `bind` only")
        return self._recording


class Recording:
    """A forward pass that is being recorded."""

    def __init__(self, instruction_set: str, cache: KVCache) -> None:
        self._program = _cpu.Program(instruction_set, torch.get_num_threads())
        self._cache = cache
        self._weights: dict[int, _cpu.Weight] = {}
        self._tables: list[torch.Tensor] = []
        self._head: _cpu.Weight | None = None
        self._hidden: Activation | None = None
        self._gather: Callable[[torch.Tensor], torch.Tensor] | None = None

    def of(self, model: Model) -> "RecordedForward":
        """Run the model's forward on handles, then its head.

        Raises:
            ModelError: the model's head is more than one product.
        """
        step: Any = AttentionStep(self._cache, _AnyBatch(), None)  # type: ignore[arg-type]
        hidden: Any = model(step)
        self._hidden = hidden
        logits: Any = model.logits(hidden)
        if self._head is None or logits is not hidden:
            raise ModelError("the model's head is not a single product, which the CPU kernels need")
        self._program.keep(hidden.buffer, self._head)
        return RecordedForward(self._program, hidden, self._head, self._gather, self._cache, self._tables)

    def embedding(self, ids: object, weight: Weight, scale: float, first_id: int) -> Activation:
        packed = self._pack(weight)
        out = self._new(packed.num_inputs)
        self._program.embedding(packed, out.buffer, ids is _AnyBatch.positions, scale, first_id)
        return out

    def add(self, a: Activation, b: Activation) -> Activation:
        out = self._new(a.width)
        self._program.add(a.buffer, b.buffer, out.buffer)
        return out

    def linear(self, hidden: Activation, weight: Weight, bias: torch.Tensor | None) -> Activation:
        if hidden is self._hidden:
            if bias is not None:
                raise ModelError("a head with a bias is not known to the CPU kernels")
            self._head = self._pack(weight)
            return hidden
        packed = self._pack(weight)
        out = self._new(packed.num_outputs)
        self._program.product(packed, None if bias is None else _floats(bias), hidden.buffer, out.buffer)
        return out

    def norm(
        self,
        hidden: Activation,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
        residual: Activation | None,
        *,
        centred: bool,
    ) -> tuple[Activation, Activation]:
        normalised = self._new(hidden.width)
        total, added = (hidden, -1) if residual is None else (self._new(hidden.width), residual.buffer)
        gain, shift = (None if vector is None else _floats(vector) for vector in (weight, bias))
        self._program.norm(gain, shift, eps, centred, hidden.buffer, added, normalised.buffer, total.buffer)
        return normalised, total

    def activation(self, hidden: Activation, kind: ActivationKind, width: int) -> Activation:
        out = self._new(width)
        self._program.activation(ACTIVATIONS[kind], hidden.buffer, out.buffer)
        return out

    def experts(
        self,
        hidden: Activation,
        router: torch.Tensor,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: ActivationKind,
    ) -> Activation:
        scores, out = self._new(len(router)), self._new(hidden.width)
        # In float32 the router reads what any other product of `hidden` can be beside.
        self._program.product(_pack(router.detach().to(torch.float32)), None, hidden.buffer, scores.buffer)
        self._program.experts(
            [self._pack(weight) for weight in gate_up],
            [self._pack(weight) for weight in down],
            num_chosen,
            ACTIVATIONS[kind],
            hidden.buffer,
            scores.buffer,
            out.buffer,
        )
        return out

    def all_reduce(self, hidden: Activation, ranks: Ranks) -> Activation:
        self._program.all_reduce(lambda array: ranks.all_reduce(torch.from_numpy(array)), hidden.buffer)
        return hidden

    def gather(self, logits: Activation, ranks: Ranks, width: int) -> Activation:
        if logits is not self._hidden:
            raise ModelError("the CPU kernels gather a model's logits, and nothing else")
        self._gather = lambda own: ranks.gather(own, width)
        return logits

    def attention(self, qkv: Activation, spec: AttentionSpec) -> Activation:
        out = self._new(spec.num_heads * spec.head_dim)
        shape = self._cache.shape
        layer_group, place = shape.layer_groups.place(spec.layer)
        self._program.attention(
            qkv.buffer,
            out.buffer,
            layer_group=layer_group,
            layer=place,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            scale=spec.scale,
            window=spec.window or 0,
            softcap=spec.softcap or 0.0,
            query_norm=self._address(spec.query_norm),
            key_norm=self._address(spec.key_norm),
            norm_eps=spec.norm_eps,
            cos_sin=self._address(spec.cos_sin),
            rotary_dim=0 if spec.cos_sin is None else spec.cos_sin.shape[1],
            cache=self._cache.records.data_ptr(),
            num_blocks=shape.num_blocks,
            num_layers=shape.num_layers,
            block_size=shape.block_size,
            cache_type=DATA_TYPES[shape.dtype],
        )
        return out

    def _address(self, table: torch.Tensor | None) -> int:
        """Where a table lies as float32, kept as long as the program; 0 where there is none."""
        if table is None:
            return 0
        table = table.detach().to(torch.float32).contiguous()
        self._tables.append(table)
        return table.data_ptr()

    def _new(self, width: int) -> Activation:
        return Activation(self._program.buffer(width), width)

    def _pack(self, weight: Weight) -> "_cpu.Weight":
        """The weight packed, once where several layers share it. The parameter's own memory is given back."""
        packed = self._weights.get(id(weight))
        if packed is None:
            packed = self._weights[id(weight)] = _pack(weight)
            for tensor in (weight.values, weight.scales) if isinstance(weight, QuantizedWeight) else (weight,):
                tensor.data = torch.empty(0, dtype=tensor.dtype)
        return packed


class RecordedForward:
    """A recorded model: steps replay its program."""

    def __init__(
        self,
        program: "_cpu.Program",
        hidden: Activation,
        head: "_cpu.Weight",
        gather: Callable[[torch.Tensor], torch.Tensor] | None,
        cache: KVCache,
        tables: list[torch.Tensor],
    ) -> None:
        self._program = program
        self._hidden = hidden
        self._head = head
        self._gather = gather
        self._owned = (cache, tables)
        """The program has pointers into these."""
        self._logits = torch.empty(0, head.num_outputs)
        program.set_profiling(True)  # a look at the clock for each operation

    def run(self, batch: RaggedBatch) -> None:
        """Replay the program on a step."""
        self._program.run(
            batch.token_ids.numpy(),
            batch.positions.numpy(),
            batch.slots.numpy(),
            batch.query_starts.numpy(),
            batch.context_lens.numpy(),
            batch.tables.numpy(),
            batch.block_tables.numpy(),
        )

    def logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, vocab_size]` float32, valid until the next call."""
        if len(tokens) > len(self._logits):
            self._logits = torch.empty(len(tokens), self._head.num_outputs)
        logits = self._logits[: len(tokens)]
        self._program.logits(self._head, self._hidden.buffer, tokens, logits.numpy())
        return logits if self._gather is None else self._gather(logits)

    def seconds_by_operation(self) -> dict[str, float]:
        """Time by operation, that of the step's first thread."""
        return dict(self._program.profile())


class _AnyBatch:
    """Stands for a batch while recording: what it holds is known when a step runs. An embedding tells these apart."""

    token_ids = object()
    positions = object()


def _pack(weight: Weight) -> "_cpu.Weight":
    if not isinstance(weight, QuantizedWeight):
        return _cpu.Weight(DATA_TYPES[weight.dtype], weight.shape[0], weight.shape[1], weight.data_ptr())
    num_outputs, num_inputs = weight.values.shape
    if num_inputs > LARGEST_INPUT:
        raise ModelError(f"int8 products take up to {LARGEST_INPUT} inputs, a layer of this model has {num_inputs}")
    return _cpu.Weight(
        DATA_TYPES[torch.int8], num_outputs, num_inputs, weight.values.data_ptr(), weight.scales.data_ptr()
    )


def _floats(vector: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = vector.detach().to(torch.float32).contiguous().numpy()
    return values
