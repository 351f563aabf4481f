"""All that the Triton backend launches, in its shapes, on tensors without memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import get_args

import numpy as np
import torch

from kernels.triton.shapes import FLOATS, SPECIAL_STEPS, Case, Job, Shape, covering_shapes, meta, name_of
from octavo.kernels.operations import ActivationKind, Weight
from octavo.kernels.quantized import FORMATS, QuantizedWeight
from octavo.kernels.triton.kernels import TritonKernels
from octavo.sampling.table import SamplingTable
from octavo.sampling_params import SamplingParams

VOCAB_SIZE = 128_256
WIDTHS = (576, 4096, 5120)
"""Of hidden states: SmolLM2's, LLaMA-3-8B's and LLaMA-2-13B's."""
SAMPLED: dict[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0),
    "drawn": SamplingParams(temperature=0.8),
    "truncated": SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.01, logprobs=3),
    "edited": SamplingParams(temperature=0.8, repetition_penalty=1.1, presence_penalty=0.5, logit_bias={7: 1.0}),
    "allowed tokens": SamplingParams(temperature=0, allowed_token_ids=[3, 4, 5], min_tokens=9),
}


@dataclass(frozen=True)
class Widths:
    """Operations that know a dtype and the width of hidden states only."""

    dtype: torch.dtype
    width: int

    def __str__(self) -> str:
        return f"{name_of(self.dtype)}, width {self.width}"

    def cases(self) -> Iterator[Case]:
        """Each operation of the interface, in its variants."""
        kernels, dtype = TritonKernels(), self.dtype
        ids, hidden, norm = meta(3), meta(3, self.width, dtype=dtype), meta(self.width, dtype=dtype)
        matrix = meta(640, self.width, dtype=dtype)
        yield f"embedding, {self}", partial(kernels.embedding, ids, matrix)
        yield f"part of a scaled embedding, {self}", partial(kernels.embedding, ids, matrix, 2.0, first_id=640)
        yield f"sum, {self}", partial(kernels.add, hidden, hidden)
        for name, residual in (("", None), ("residual and ", hidden)):
            yield f"{name}RMS norm, {self}", partial(kernels.rms_norm, hidden, norm, 1e-5, residual)
            yield f"{name}layer norm, {self}", partial(kernels.layer_norm, hidden, norm, norm, 1e-5, residual)
        yield f"layer norm without weights, {self}", partial(kernels.layer_norm, hidden, None, None, 1e-5)
        for kind in get_args(ActivationKind):
            yield f"{kind}, {self}", partial(kernels.activation, hidden, kind)
            yield f"{kind} and product, {self}", partial(kernels.activation_and_mul, hidden, kind)
        yield from self._products(kernels)

    def _products(self, kernels: TritonKernels) -> Iterator[Case]:
        """With few and with many rows, whose products are cut differently."""
        router, kinds = meta(8, self.width, dtype=self.dtype), ("plain", *FORMATS)
        for num_rows, kind in product((3, 5000), kinds):
            hidden = meta(num_rows, self.width, dtype=self.dtype)
            told = f"{num_rows} rows, {kind} weights, {self}"
            weight = self._weight(kind, 6400, self.width)
            inner, outer = self._weight(kind, 2 * 96, self.width), self._weight(kind, self.width, 96)
            yield f"product of {told}", partial(kernels.linear, hidden, weight)
            yield (
                f"product with a bias of {told}",
                partial(kernels.linear, hidden, weight, meta(6400, dtype=self.dtype)),
            )
            yield f"experts of {told}", partial(kernels.experts, hidden, router, [inner] * 8, [outer] * 8, 2, "silu")
        for kind in FORMATS:
            weight = self._weight(kind, 640, self.width)
            yield f"embedding, {kind}, {self}", partial(kernels.embedding, meta(3), weight)

    def _weight(self, kind: str, num_outputs: int, num_inputs: int) -> Weight:
        if kind == "plain":
            return meta(num_outputs, num_inputs, dtype=self.dtype)
        return QuantizedWeight(num_outputs, num_inputs, torch.device("meta"), self.dtype, FORMATS[kind])


@dataclass(frozen=True)
class Sampling:
    """A token a row, and what is told of tokens, for logits of one dtype."""

    dtype: torch.dtype

    def __str__(self) -> str:
        return name_of(self.dtype)

    def cases(self) -> Iterator[Case]:
        """With all that a request can ask for."""
        kernels, logits, rows = TritonKernels(), meta(3, VOCAB_SIZE, dtype=self.dtype), np.arange(3)
        yield f"scores, {self}", partial(kernels.score, logits, meta(3, 1), 5)
        for num_candidates, name, params in (*((0, *each) for each in SAMPLED.items()), (4, "beams", SamplingParams())):
            table = SamplingTable()
            for row in range(3):
                table.set_row(row, params, row, 0, [2], num_candidates)
            batch = table.plain_batch(rows, []) or table.batch(
                rows, np.full(3, 5), lambda row, count: (np.arange(9), np.arange(count)), []
            )
            yield f"{name} tokens, {self}", partial(kernels.sample, logits, batch)


QUICK: list[Job] = [
    Shape(),
    Shape(dtype=torch.float16, head_dim=256, window=1024, softcap=30.0),
    Widths(torch.bfloat16, 4096),
    Sampling(torch.float32),
]
"""The commonest shape, and the one that needs most registers."""


def all_jobs() -> list[Job]:
    """`QUICK`, and as many more that each two values of different axes are together in one."""
    widths = [Widths(*each) for each in product(FLOATS, WIDTHS)]
    special = Shape(steps=SPECIAL_STEPS)
    return list(dict.fromkeys([*QUICK, special, *covering_shapes(), *widths, *map(Sampling, FLOATS)]))
