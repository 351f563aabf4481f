"""What a kernel backend offers. Layers and the model runner know backends only through this."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.attention import ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.grouped import GroupedRows, GroupedWeight
from octavo.kernels.operations import Operations
from octavo.kernels.packed_weights import PackedWeights
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores


class ForwardPass(Protocol):
    """A model bound to a cache, ready to run steps."""

    def padded_rows(self, num_rows: int) -> int:
        """How many rows a step of so many, each with one new token, is to be padded to."""
        ...

    def run(self, batch: RaggedBatch) -> None:
        """Compute a step: write its KV and keep its tokens' last hidden states until the next one."""
        ...

    def logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """Logits that follow some of the last step's tokens.

        Args:
            tokens: `[n]`, indices into the step's flat list.

        Returns:
            `[n, vocab_size]`, valid until the next call.
        """
        ...

    def most_likely(self, tokens: NDArray[np.int64], fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The token of the highest logit, ties to the lowest id: what `Kernels.sample` gives for a plain batch.
        A backend can find it while it computes them.

        Args:
            tokens: `[n]`, as above.
            fallback: `[n]`, the token where every one is impossible.

        Returns:
            `[n]` int64; and `[n]` bool, whether the highest logit is no finite number. On the logits' device.
        """
        ...

    def hidden_states(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """Last hidden states of some of the last step's tokens.

        Args:
            tokens: `[n]`, as above.

        Returns:
            `[n, hidden_size]`, valid until the next step.
        """
        ...

    def seconds_by_operation(self) -> dict[str, float]:
        """Where the time of all runs so far has gone; empty for kernels that do not tell."""
        ...


class Model(Protocol):
    """What a backend runs: a forward pass in the words of `Kernels`."""

    @property
    def has_head(self) -> bool:
        """Whether it gives logits. One that does not gives hidden states only."""
        ...

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        """The last hidden state of every token: `[num_tokens, hidden_size]`."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]`."""
        ...


class Kernels(Operations, Protocol):
    """One device's kernels. `kernels/reference.py` is the plain torch version that every other is tested against.

    A backend may compute as it is called, or record what is called: then `bind` runs the model's forward once with
    handles in place of tensors, and steps replay it. So layers and models combine the operations, and touch
    activations in no other way.
    """

    packed_form: str | None = None
    """Differs with how the backend packs weights when it binds a model; None where it does not."""

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. On the CPU its pages are taken from the system when first written."""
        ...

    def quantize_into(self, weight: QuantizedWeight | GroupedWeight, first_row: int, rows: torch.Tensor) -> None:
        """Fill some rows of a weight of fewer bits, while a model loads.

        Args:
            weight: with a scale for each output; or of 4 bits, with minimums.
            first_row: the weight's, that `rows` starts with.
            rows: `[n, in_features]`, any floating dtype, on any device.
        """
        ...

    def fill(self, weight: GroupedWeight, first_row: int, rows: GroupedRows) -> None:
        """Put rows of the weight's own form and width in their place, while a model loads."""
        ...

    def copy_blocks(
        self, source: KVCache, destination: KVCache, source_ids: torch.Tensor, destination_ids: torch.Tensor
    ) -> None:
        """Copy whole records (`[n]` int64 block ids each) within a cache, or to another one with records of the same
        shape: a swap. No id is twice in `destination_ids`, and within a cache none is in both."""
        ...

    def bind(
        self, model: Model, cache: KVCache, max_captured_rows: int = 0, packed: PackedWeights | None = None
    ) -> ForwardPass:
        """Make the model ready to run steps. A backend may take the weights over: the model's own are not to be used
        afterwards.

        Args:
            max_captured_rows: steps of up to so many rows, each with one new token, may be captured once and replayed,
                where a backend gains by it. The tensors of their batches lie at the same places in every step, and
                the cache's last record is nobody's: padding writes to it.
            packed: where a backend that packs weights finds those packed before, and keeps the others.
        """
        ...

    def sample(self, logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
        """Choose the next token of each row, or the candidates of a beam, without waiting for a device.

        The rows' edits change the logits. Rows at temperature 0 take the most likely token, of equals the lowest id.
        For the others follow temperature, top-k, top-p and min-p, in this order, and a race between the tokens left,
        each with the noise that belongs to (seed, sequence, position, token). A row's token depends on no other row,
        bit for bit. It is one that the masks allow, unless they allow none or the logits aren't numbers: then it is the
        row's `fallback`.

        Args:
            logits: `[num_rows, vocab_size]`, any floating dtype; 16 bit is widened to float32. Not changed.
        """
        ...

    def score(self, logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
        """What is told of given tokens (`[n, k]` int64) at the positions before them.

        Args:
            logits: `[n, vocab_size]`, as the model gave them. Takes three times their memory.
            num_top: how many of the most likely tokens to tell of; past the vocabulary is all of it.
        """
        ...
