"""The C++ backend for the CPU. Its operations don't compute, but for sampling: they record.

`CpuKernels.bind` runs the model's forward once with handles (`Activation`) in place of tensors; each operation that the
layers call is added to a program of `octavo.kernels._cpu`, bound to its packed weights. A step then replays the program
in one call. So a model is written once, for this backend and for those that compute as they go, and a step costs no
Python work a layer.

Activations are float32 throughout, sums too, whatever the weights are stored in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.kernels import _cpu
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.cpu_drawing import draw_rows_in_cpp
from octavo.kernels.cpu_quantizing import fill_in_cpp, quantize_into_in_cpp
from octavo.kernels.grouped import GroupedRows, GroupedWeight
from octavo.kernels.interface import ForwardPass, Kernels, Model
from octavo.kernels.large_pages import large_zeros
from octavo.kernels.operations import NO_WEIGHTS, Argument, Weight
from octavo.kernels.packed_weights import PackedWeights
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.recording import Activation, ForwardRecorder, HeadRecorder, OperationCall, Recorder
from octavo.kernels.sampling.drawing import most_likely
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores
from octavo.kernels.sampling.logprobs import score_tokens
from octavo.kernels.sampling.sampler import sample


class CpuKernels(Kernels):
    """For float32, bfloat16, float16 and int8 weights and KV caches, and weights in groups of inputs, in C++.

    Args:
        instruction_set: amx, avx512bf16, avx512vbmi, avx512, avx2 or portable; auto takes the best that the processor
            has.
        num_threads: that run a step together, the calling one among them; by default as many as torch has.

    Raises:
        ValueError: the processor cannot run that instruction set.
    """

    name = "cpu"
    has_grouped_weights = True

    def __init__(self, instruction_set: str = "auto", num_threads: int | None = None) -> None:
        self.instruction_set = self.packed_form = _cpu.instruction_set(instruction_set)
        self.threads = _cpu.ThreadPool(num_threads or torch.get_num_threads())
        self._recorder: Recorder | None = None

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache in large pages, taken from the system when first written, as a step visits every block of its
        rows."""
        return KVCache(shape, large_zeros((shape.num_blocks, shape.block_bytes), torch.uint8))

    def quantize_into(self, weight: QuantizedWeight | GroupedWeight, first_row: int, rows: torch.Tensor) -> None:
        """In C++, on all threads."""
        quantize_into_in_cpp(self.instruction_set, self.threads, weight, first_row, rows)

    def fill(self, weight: GroupedWeight, first_row: int, rows: GroupedRows) -> None:
        """In C++, on all threads."""
        fill_in_cpp(self.instruction_set, self.threads, weight, first_row, rows)

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records (`[n]` int64 block ids each), several at once."""
        _cpu.copy_blocks(
            self.threads,
            source.records.data_ptr(),
            destination.records.data_ptr(),
            source.shape.block_bytes,
            source_ids.numpy(),
            destination_ids.numpy(),
        )

    def bind(
        self, model: Model, cache: KVCache, max_captured_rows: int = 0, packed: PackedWeights | None = None
    ) -> ForwardPass:
        """Record the model's forward pass, then its head. Each weight is packed and its parameter emptied on the way,
        so that the model is never in memory twice; what `packed` has of them is mapped.

        Raises:
            ModelError: the model's head is more than one product.
        """
        forward = ForwardRecorder(self.instruction_set, self.threads, cache, packed)
        weight = gather = None
        try:
            self._recorder = forward
            hidden = model(forward.context)
            if model.has_head:
                self._recorder = head = HeadRecorder(hidden, forward.pack)
                weight, gather = head.product(model.logits(hidden)), head.gather
        finally:
            self._recorder = None
        if packed is not None:
            packed.save()
        return RecordedForward(forward.program, hidden, weight, gather, cache)

    def record(
        self,
        operation: str,
        widths: Sequence[int],
        *,
        weights: Mapping[str, Sequence[Weight]] = NO_WEIGHTS,
        **arguments: Argument,
    ) -> list[torch.Tensor]:
        """Add an operation to the model that is being recorded.

        Raises:
            RuntimeError: none is.
        """
        if self._recorder is None:
            raise RuntimeError("the CPU kernels record: their operations are called inside `bind` only")
        return self._recorder.record(OperationCall(operation, widths, weights, arguments))

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """As the reference does, but that C++ draws."""
        with _one_torch_thread():
            return sample(logits, batch, partial(draw_rows_in_cpp, self.instruction_set, self.threads))

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """As the reference does."""
        with _one_torch_thread():
            return score_tokens(logits, token_ids, num_top)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Torch's others would spin for milliseconds behind each operation of theirs, on the cores of the pool's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class RecordedForward:
    """A recorded model: steps replay its program.

    Args:
        hidden: what the forward pass returned.
        head: the weight of the product that makes logits of it; None where the model has no head.
        gather: what all ranks do with their logits together.
    """

    def __init__(
        self,
        program: _cpu.Program,
        hidden: torch.Tensor,
        head: _cpu.Weight | None,
        gather: Callable[[torch.Tensor], torch.Tensor] | None,
        cache: KVCache,
    ) -> None:
        if not isinstance(hidden, Activation) or isinstance(hidden.known_as, str):
            raise ModelError("the model's forward pass does not return activations")
        program.keep(hidden.known_as, head)
        self._program = program
        self._hidden = hidden.known_as
        self._width = hidden.shape[-1]
        self._own_head = head
        self._gather = gather
        self._cache = cache
        """The program has pointers into it."""
        self._logits = torch.empty(0)
        program.set_profiling(True)  # a look at the clock for each operation

    def padded_rows(self, num_rows: int) -> int:
        """No padding."""
        return num_rows

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
        logits = self._room(len(tokens))
        self._program.logits(self._head, self._hidden, tokens, logits.numpy())
        return logits if self._gather is None else self._gather(logits)

    def most_likely(self, tokens: NDArray[np.int64], fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """`[n]` indices of the step's tokens -> `[n]` int64, and `[n]` bool, the broken: without writing the logits
        where this rank has all of them."""
        if self._gather is not None:
            return most_likely(self.logits(tokens), fallback)
        found = np.empty(len(tokens), np.int64)
        self._program.likeliest(self._head, self._hidden, tokens, found)
        is_unfound = found < 0
        token_ids, broken = torch.from_numpy(found), torch.from_numpy(is_unfound)
        if is_unfound.any():
            rows = np.flatnonzero(is_unfound)
            with _one_torch_thread():
                token_ids[rows], broken[rows] = most_likely(self.logits(tokens[rows]), fallback[rows])
        return token_ids, broken

    def hidden_states(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, hidden_size]` float32."""
        states = torch.empty(len(tokens), self._width)
        self._program.read(self._hidden, tokens, states.numpy())
        return states

    @property
    def _head(self) -> _cpu.Weight:
        if self._own_head is None:
            raise RuntimeError("this model has no head: it gives hidden states, and no logits")
        return self._own_head

    def _room(self, num_rows: int) -> torch.Tensor:
        if num_rows > len(self._logits):
            self._logits = torch.empty(num_rows, self._head.num_outputs)
        return self._logits[:num_rows]

    def seconds_by_operation(self) -> dict[str, float]:
        """Time by operation, that of the step's first thread."""
        return dict(self._program.profile())
