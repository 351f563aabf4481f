"""Recording a model for the C++ backend: its forward pass is run once on handles in place of tensors, and each
operation that its layers call is added to a program of `octavo.kernels._cpu`.

What operations there are, and what they take, is not known here: `Operations` declares it, and each operation's own
file in csrc/ops/ reads its arguments by their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.kernels import _cpu
from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import KVCache
from octavo.kernels.grouped import GroupedWeight
from octavo.kernels.operations import Argument, Collective, Weight
from octavo.kernels.packed_weights import PackedWeights

DATA_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
"""As `octavo::DataType` in csrc/ numbers them."""

LARGEST_INPUT = 1 << 16
"""Inputs of an int8 product, at the most: a sum of more could leave 32 bits."""

NOT_ONE_PRODUCT = "the model's head is not a single product, which the CPU kernels need"


class Activation(torch.Tensor):
    """Stands for a tensor while a forward pass is recorded. It has a width, no tokens and no values: only the
    operations of `Kernels` take it."""

    known_as: "_cpu.Buffer | str"
    """What the program knows it by: a buffer, or the name of one of a batch's tensors."""

    @classmethod
    def of(cls, known_as: "_cpu.Buffer | str", *width: int) -> "Activation":
        """A handle `[num_tokens, width]`, or `[num_tokens]`."""
        handle = torch.empty(0, *width, device="meta").as_subclass(cls)
        handle.known_as = known_as
        return handle

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse what torch would do with it, all but telling its shape."""
        if func == torch.Tensor.shape.__get__:  # type: ignore[attr-defined]
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        raise ModelError(
            f"a model's layer calls torch's '{getattr(func, '__name__', func)}' on activations; the CPU kernels record "
            "the operations of `Kernels` only"
        )


@dataclass(frozen=True, slots=True)
class OperationCall:
    """What `Operations.record` is told."""

    operation: str
    widths: Sequence[int]
    weights: Mapping[str, Sequence[Weight]]
    arguments: Mapping[str, Argument]


class Recorder(Protocol):
    """What listens to the operations that a model calls."""

    def record(self, call: OperationCall) -> list[torch.Tensor]:
        """What stands for the results."""
        ...


class ForwardRecorder:
    """Adds operations to a program.

    Args:
        kept: weights that were packed before, and where those that are packed now are kept.
    """

    def __init__(
        self, instruction_set: str, threads: "_cpu.ThreadPool", cache: KVCache, kept: PackedWeights | None = None
    ) -> None:
        self.program = _cpu.Program(instruction_set, threads)
        self._threads = threads
        inputs: dict[str, Any] = {
            field.name: Activation.of(field.name)
            for field in fields(RaggedBatch)
            if field.name not in ("shared", "extent")
        }
        batch = RaggedBatch(**inputs)
        self.context = ForwardContext(cache, batch, metadata=None)
        """What the model's forward is run with."""
        self._packed: dict[int, tuple[Weight, _cpu.Weight]] = {}
        """By the weight's id; the weight itself is there so that no other takes its id."""
        self._kept = kept

    def record(self, call: OperationCall) -> list[torch.Tensor]:
        """Add the operation, with new buffers for its results."""
        if call.operation == "gather":
            raise ModelError("the CPU kernels gather a model's logits, and nothing else")
        results = [self.program.buffer(width) for width in call.widths]
        given: dict[str, object] = {name: [self.pack(weight) for weight in some] for name, some in call.weights.items()}
        given |= {name: _given(value) for name, value in call.arguments.items()}
        self.program.add(call.operation, given, results)
        return [Activation.of(result, width) for result, width in zip(results, call.widths, strict=True)]

    def pack(self, weight: Weight) -> "_cpu.Weight":
        """The weight packed, once where several layers share it. The parameter keeps its shape and gives its memory
        back."""
        if id(weight) not in self._packed:
            memory = None if self._kept is None else self._kept.memory(weight)
            packed = _pack(self._threads, weight, memory)
            if self._kept is not None and memory is None:
                self._kept.add(weight, packed)
            self._packed[id(weight)] = (weight, packed)
            for tensor in [weight] if isinstance(weight, torch.Tensor) else weight.parameters():
                tensor.data = torch.empty((), dtype=tensor.dtype).expand(tensor.shape)
        return self._packed[id(weight)][1]


class HeadRecorder:
    """Takes the one product of the last hidden states that a model's head is, its logits gathered from all ranks."""

    def __init__(self, hidden: torch.Tensor, pack: Callable[[Weight], "_cpu.Weight"]) -> None:
        self.weight: _cpu.Weight | None = None
        self.gather: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._hidden = hidden
        self._pack = pack

    def record(self, call: OperationCall) -> list[torch.Tensor]:
        """Note the product's weight, or how to gather; the hidden states stand for the logits."""
        arguments = call.arguments
        if call.operation == "linear" and arguments["hidden"] is self._hidden and self.weight is None:
            if arguments["bias"] is not None:
                raise ModelError("a head with a bias is not known to the CPU kernels")
            if len(call.weights["weight"]) != 1:
                raise ModelError(NOT_ONE_PRODUCT)
            self.weight = self._pack(call.weights["weight"][0])
            return [self._hidden]
        gather = arguments.get("gather")
        if isinstance(gather, Collective) and arguments["logits"] is self._hidden:
            self.gather = gather.run
            return [self._hidden]
        raise ModelError(NOT_ONE_PRODUCT)

    def product(self, logits: torch.Tensor) -> "_cpu.Weight":
        """The weight of the head's product.

        Raises:
            ModelError: the logits don't come of one.
        """
        if self.weight is None or logits is not self._hidden:
            raise ModelError(NOT_ONE_PRODUCT)
        return self.weight


def _given(argument: Argument) -> object:
    """An argument as the C++ side takes it: those of several fields by the fields' names."""
    match argument:
        case Activation():
            return argument.known_as
        case torch.Tensor():
            return _floats(argument)
        case msgspec.Struct():
            return {"name": type(argument).__name__, **msgspec.structs.asdict(argument)}
        case AttentionSpec():
            return {field.name: _given(getattr(argument, field.name)) for field in fields(argument)}
        case KVCache(shape, records):
            return {
                "address": records.data_ptr(),
                "num_blocks": shape.num_blocks,
                "num_layers": shape.num_layers,
                "block_size": shape.block_size,
                "num_kv_heads": shape.num_kv_heads,
                "head_dim": shape.head_dim,
                "type": DATA_TYPES[shape.dtype],
            }
        case Collective(run):
            return lambda rows: run(torch.from_numpy(rows))
    return argument


def _pack(threads: "_cpu.ThreadPool", weight: Weight, memory: NDArray[np.uint8] | None) -> "_cpu.Weight":
    """A copy of the weight, packed; or what `memory` has of it, where it was packed before."""
    num_outputs, num_inputs = weight.shape
    if isinstance(weight, torch.Tensor):
        return _cpu.Weight(threads, DATA_TYPES[weight.dtype], num_outputs, num_inputs, weight.data_ptr(), packed=memory)
    if isinstance(weight, GroupedWeight):
        return _pack_grouped(threads, weight, memory)
    if weight.values.dtype not in DATA_TYPES:
        raise ModelError(f"the CPU kernels have no weights of {weight.values.dtype}: --quantization int8 or none")
    if num_inputs > LARGEST_INPUT:
        raise ModelError(f"int8 products take up to {LARGEST_INPUT} inputs, a layer of this model has {num_inputs}")
    return _cpu.Weight(
        threads,
        DATA_TYPES[torch.int8],
        num_outputs,
        num_inputs,
        weight.values.data_ptr(),
        weight.scales.data_ptr(),
        packed=memory,
    )


def _pack_grouped(threads: "_cpu.ThreadPool", weight: GroupedWeight, memory: NDArray[np.uint8] | None) -> "_cpu.Weight":
    form, (num_outputs, num_inputs) = weight.form, weight.shape
    return _cpu.Weight.grouped(
        threads,
        form.bits,
        num_outputs,
        num_inputs,
        form.group,
        weight.codes.data_ptr(),
        weight.scales.data_ptr(),
        weight.row_scales.data_ptr(),
        0 if weight.minimums is None else weight.minimums.data_ptr(),
        form.table,
        packed=memory,
    )


def _floats(vector: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = vector.detach().to(torch.float32).contiguous().numpy()
    return values
