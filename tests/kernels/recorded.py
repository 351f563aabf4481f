"""Operations recorded by the C++ kernels and run alone, with what tests of them are made of."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from octavo.kernels.attention import ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.grouped import GroupedForm, GroupedWeight, pack_nibbles, scales_in_float16
from octavo.kernels.interface import ForwardPass
from octavo.kernels.quantized import QuantizedWeight, quantize_rows
from octavo.layer_groups import one_group

CPU = torch.device("cpu")
INSTRUCTION_SETS = ["amx", "avx512bf16", "avx512vbmi", "avx512", "avx2", "portable"]
ROUNDING_SETS = ["amx", "avx512bf16"]  # a bfloat16 weight multiplies activations rounded to bfloat16


def kernels_for(name: str) -> CpuKernels:
    try:
        return CpuKernels(name)
    except ValueError as error:
        pytest.skip(str(error))


def batch_of(num_tokens: int) -> RaggedBatch:
    """Tokens 0 to num_tokens - 1, for models without attention."""
    one_by_one = torch.arange(num_tokens)
    return RaggedBatch(
        token_ids=one_by_one,
        positions=one_by_one,
        slots=one_by_one.unsqueeze(0),
        query_starts=torch.tensor([0, num_tokens]),
        context_lens=torch.tensor([num_tokens]),
        tables=torch.zeros(1, dtype=torch.int64),
        block_tables=torch.zeros(1, 1, 1, dtype=torch.int64),
    )


@dataclass
class Recipe:
    """A model that is the operations given, between an embedding of `inputs` and a head that is the identity."""

    has_head = True

    kernels: Any
    inputs: torch.Tensor
    operations: Any
    width: int

    def __post_init__(self) -> None:
        self.inputs = self.inputs.clone()
        self.identity = torch.eye(self.width)

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        out: torch.Tensor = self.operations(self.kernels.embedding(context.batch.token_ids, self.inputs))
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.kernels.linear(hidden, self.identity)
        return result


def bind(kernels: CpuKernels, recipe: Recipe) -> ForwardPass:
    return kernels.bind(
        recipe, kernels.allocate_cache(CacheShape(1, one_group(1), 16, 1, 16, torch.float32), torch.device("cpu"))
    )


def outcome(kernels: CpuKernels, inputs: torch.Tensor, operations: Any, width: int) -> torch.Tensor:
    """What the operations make of the inputs' rows, all in one step."""
    forward = bind(kernels, Recipe(kernels, inputs, operations, width))
    forward.run(batch_of(len(inputs)))
    return forward.logits(torch.arange(len(inputs)).numpy()).clone()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(weight: torch.Tensor) -> QuantizedWeight:
    out = QuantizedWeight(weight.shape[0], weight.shape[1], CPU)
    out.values.data, out.scales.data = quantize_rows(weight)
    return out


def grouped(form: GroupedForm, num_outputs: int, num_inputs: int, seed: int = 0) -> GroupedWeight:
    """A weight of random codes, scales and minimums."""
    generator = torch.Generator().manual_seed(seed)
    weight = GroupedWeight(num_outputs, num_inputs, form, CPU)
    low, high = (0, 16) if form.bits == 4 else (-128, 128)
    codes = torch.randint(low, high, (num_outputs, num_inputs), generator=generator)
    weight.codes.data = pack_nibbles(codes.to(torch.uint8)) if form.bits == 4 else codes.to(torch.int8)
    scales = torch.rand(weight.scales.shape, generator=generator) - 0.3
    minimums = torch.rand(weight.scales.shape, generator=generator) * 20 if form.has_minimums else None
    weight.scales.data, rounded, weight.row_scales.data = scales_in_float16(scales, minimums)
    if weight.minimums is not None and rounded is not None:
        weight.minimums.data = rounded
    return weight
