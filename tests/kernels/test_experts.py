"""Experts: the reference against a loop over tokens in float64, the C++ kernels against the reference."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from kernels.recorded import ROUNDING_SETS
from octavo.kernels.attention import ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.operations import Weight
from octavo.kernels.quantized import QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import one_group

INSTRUCTION_SETS = ["amx", "avx512bf16", "avx512", "avx2", "portable"]
HIDDEN, INNER, NUM_EXPERTS = 40, 36, 5


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantized(weight: torch.Tensor) -> QuantizedWeight:
    out = QuantizedWeight(weight.shape[0], weight.shape[1], torch.device("cpu"))
    out.values.data, out.scales.data = quantize_rows(weight)
    return out


def expert_weights(kind: str) -> tuple[list[Weight], list[Weight]]:
    """Gate and up, and down, of each expert; always the same numbers for a kind, in memory of their own."""
    up = [random(2 * INNER, HIDDEN, seed=1 + index) / 6 for index in range(NUM_EXPERTS)]
    down = [random(HIDDEN, INNER, seed=9 + index) / 6 for index in range(NUM_EXPERTS)]
    if kind == "int8":
        return [quantized(each) for each in up], [quantized(each) for each in down]
    dtype = getattr(torch, kind)
    return [each.to(dtype) for each in up], [each.to(dtype) for each in down]


class ExpertsOnly:
    """A model that is one layer of experts, between an embedding of `inputs` and a head that is the identity."""

    has_head = True

    def __init__(self, kernels: Any, inputs: torch.Tensor, kind: str, num_chosen: int) -> None:
        self.kernels, self.inputs, self.num_chosen = kernels, inputs.clone(), num_chosen
        self.router = random(NUM_EXPERTS, HIDDEN, seed=30)
        self.gate_up, self.down = expert_weights(kind)
        self.identity = torch.eye(HIDDEN)

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        hidden = self.kernels.embedding(context.batch.token_ids, self.inputs)
        out: torch.Tensor = self.kernels.experts(hidden, self.router, self.gate_up, self.down, self.num_chosen, "silu")
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.kernels.linear(hidden, self.identity)
        return result


def outcome(kernels: Any, inputs: torch.Tensor, kind: str, num_chosen: int) -> torch.Tensor:
    cache = kernels.allocate_cache(CacheShape(1, one_group(1), 16, 1, 16, torch.float32), torch.device("cpu"))
    forward = kernels.bind(ExpertsOnly(kernels, inputs, kind, num_chosen), cache)
    ids, row, table = torch.arange(len(inputs)), torch.tensor([0, len(inputs)]), torch.zeros(1, 1, 1, dtype=torch.int64)
    forward.run(RaggedBatch(ids, ids, ids.unsqueeze(0), row, row[1:], table[0, 0], table))
    result: torch.Tensor = forward.logits(ids.numpy()).clone()
    return result


def kernels_for(name: str) -> CpuKernels:
    try:
        return CpuKernels(name)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("num_chosen", [1, 2, NUM_EXPERTS])
def test_a_token_gets_the_results_of_its_highest_experts_by_the_softmax_of_their_scores(num_chosen: int) -> None:
    inputs = random(11, HIDDEN).double()
    model = ExpertsOnly(ReferenceKernels(), inputs, "float64", num_chosen)
    actual = model.kernels.experts(inputs, model.router, model.gate_up, model.down, num_chosen, "silu")
    for token, result in zip(inputs, actual, strict=True):
        scores = (model.router.double() @ token).softmax(0)
        chosen = sorted(range(NUM_EXPERTS), key=lambda expert: -float(scores[expert]))[:num_chosen]
        expected = torch.zeros(HIDDEN, dtype=torch.float64)
        for expert in chosen:
            inner, outer = model.gate_up[expert], model.down[expert]
            assert isinstance(inner, torch.Tensor)
            assert isinstance(outer, torch.Tensor)
            gate, up = (inner @ token).chunk(2)
            expected += scores[expert] / sum(scores[other] for other in chosen) * (outer @ (functional.silu(gate) * up))
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_the_cpp_experts_are_those_of_the_reference_at_any_number_of_rows(instruction_set: str, kind: str) -> None:
    kernels = kernels_for(instruction_set)
    rounds = kind == "bfloat16" and kernels.instruction_set in ROUNDING_SETS
    tolerance = 2e-2 if rounds else 2e-5
    for num_rows, num_chosen in ((1, 2), (7, 1), (7, NUM_EXPERTS), (150, 2)):
        inputs = random(num_rows, HIDDEN)
        # The reference computes in the dtype of its weights, the C++ kernels in float32.
        exact = "float32" if kind == "bfloat16" else kind
        model = ExpertsOnly(ReferenceKernels(), inputs, exact, num_chosen)
        if kind == "bfloat16":
            model.gate_up, model.down = ([w.float() for w in each] for each in expert_weights(kind))
        expected = model.kernels.experts(inputs, model.router, model.gate_up, model.down, num_chosen, "silu")
        actual = outcome(kernels, inputs, kind, num_chosen)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_rows_experts_do_not_depend_on_its_batch(kind: str) -> None:
    inputs = random(90, HIDDEN)
    whole = outcome(CpuKernels(), inputs, kind, 2)
    for start, count in ((0, 1), (17, 2), (40, 30)):
        assert torch.equal(outcome(CpuKernels(), inputs[start : start + count], kind, 2), whole[start : start + count])


def test_weights_that_do_not_fit_are_refused() -> None:
    model = ExpertsOnly(CpuKernels(), random(3, HIDDEN), "float32", NUM_EXPERTS + 1)
    cache = model.kernels.allocate_cache(CacheShape(1, one_group(1), 16, 1, 16, torch.float32), torch.device("cpu"))
    with pytest.raises(ValueError, match="experts"):
        model.kernels.bind(model, cache)
