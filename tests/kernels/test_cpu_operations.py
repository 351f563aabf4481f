"""The C++ products and small operations against torch, on every instruction set; the extension in a process."""

import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from kernels.recorded import (
    INSTRUCTION_SETS,
    ROUNDING_SETS,
    Recipe,
    batch_of,
    bind,
    kernels_for,
    outcome,
    quantized,
    random,
)
from octavo.errors import ModelError
from octavo.kernels import _cpu
from octavo.kernels.attention import ForwardContext
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.operations import ActivationKind, Weight
from octavo.kernels.quantized import INT8, QuantizedWeight
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.sampling.drawing import most_likely

ROWS = [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 24, 31, 64, 256]


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(96, 64), (33, 37), (160, 128), (5, 1)])
def test_products_are_those_of_float64_at_any_number_of_rows(
    instruction_set: str, dtype: torch.dtype, num_outputs: int, num_inputs: int
) -> None:
    kernels = kernels_for(instruction_set)
    weight, bias = random(num_outputs, num_inputs, seed=1).to(dtype), random(num_outputs, seed=2)
    rounds = dtype == torch.bfloat16 and kernels.instruction_set in ROUNDING_SETS
    for rows in ROWS:
        inputs = random(rows, num_inputs)
        seen = inputs.to(torch.bfloat16) if rounds else inputs
        expected = seen.double() @ weight.double().T + bias.double()
        own = weight.clone()
        actual = outcome(kernels, inputs, lambda x, own=own: kernels.linear(x, own, bias), num_outputs)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(64, 64), (33, 37), (100, 1026)])
def test_int8_products_are_exact_integers_even_at_extreme_values(
    instruction_set: str, num_outputs: int, num_inputs: int
) -> None:
    """With all scales 1 the outputs are the sums themselves; int64 knows them."""
    kernels = kernels_for(instruction_set)
    generator = torch.Generator().manual_seed(3)
    for rows in ROWS:
        values = torch.randint(-127, 128, (rows, num_inputs), generator=generator)
        weights = torch.randint(-127, 128, (num_outputs, num_inputs), generator=generator)
        values[-1], values[0], weights[0] = -127, 127, -127
        weights[1] = 127
        values[:, :: INT8.group] = 127  # so that each group's scale is 1
        weight = QuantizedWeight(num_outputs, num_inputs, torch.device("cpu"))
        weight.values.data, weight.scales.data = weights.to(torch.int8), torch.ones(num_outputs)
        actual = outcome(kernels, values.float(), lambda x, w=weight: kernels.linear(x, w), num_outputs)
        assert torch.equal(actual.to(torch.int64), (values @ weights.T).float().to(torch.int64))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_int8_products_are_those_of_the_reference(instruction_set: str) -> None:
    kernels, reference = kernels_for(instruction_set), ReferenceKernels()
    weight, bias, inputs = quantized(random(70, 200, seed=1)), random(70, seed=2), random(9, 200)
    expected = reference.linear(inputs, weight, bias)
    actual = outcome(kernels, inputs, lambda x: kernels.linear(x, weight, bias), 70)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int8"])
def test_a_rows_product_does_not_depend_on_its_batch(instruction_set: str, kind: str) -> None:
    kernels = kernels_for(instruction_set)
    table, inputs = random(150, 96, seed=1), random(256, 96)

    def product(rows: torch.Tensor) -> torch.Tensor:
        weight: Weight = quantized(table) if kind == "int8" else table.clone().to(getattr(torch, kind))
        return outcome(kernels, rows, lambda x: kernels.linear(x, weight), 150)

    whole = product(inputs)
    for start, rows in ((0, 1), (17, 2), (100, 3), (40, 7), (8, 13), (200, 50)):
        assert torch.equal(product(inputs[start : start + rows]), whole[start : start + rows])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [8, 20, 64, 100])
def test_norm_activation_and_residual_are_those_of_the_reference(instruction_set: str, width: int) -> None:
    kernels, reference = kernels_for(instruction_set), ReferenceKernels()
    inputs, weight = random(9, 2 * width) * 6, random(width, seed=1)

    def operations(k: Any) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            activated = k.activation_and_mul(x, "silu")
            normalised, total = k.rms_norm(activated, weight, 1e-5)
            again: torch.Tensor = k.rms_norm(normalised, weight, 1e-5, total)[0]
            return again

        return run

    expected = operations(reference)(inputs)
    torch.testing.assert_close(outcome(kernels, inputs, operations(kernels), width), expected, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", get_args(ActivationKind))
def test_activations_are_those_of_float64_at_every_size(instruction_set: str, kind: ActivationKind) -> None:
    kernels, exact = kernels_for(instruction_set), ReferenceKernels()
    inputs = torch.cat([torch.linspace(-15, 15, 5000), torch.tensor([1e-30, -1e-30, 40.0, -40.0, 1e6, -1e6])])
    inputs = inputs.reshape(-1, 1).repeat(1, 21)
    actual = outcome(kernels, inputs, lambda x: kernels.activation(x, kind), 21)
    torch.testing.assert_close(actual.double(), exact.activation(inputs.double(), kind), rtol=5e-7, atol=5e-7)
    ends = torch.tensor([[torch.inf], [torch.nan]])
    assert outcome(kernels, ends, lambda x: kernels.activation(x, kind), 1).tolist()[0] == [torch.inf]
    assert outcome(kernels, ends, lambda x: kernels.activation(x, kind), 1)[1].isnan()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", get_args(ActivationKind))
def test_an_activation_multiplies_the_second_half_where_gated(instruction_set: str, kind: ActivationKind) -> None:
    kernels, reference = kernels_for(instruction_set), ReferenceKernels()
    inputs = random(7, 2 * 37) * 3
    actual = outcome(kernels, inputs, lambda x: kernels.activation_and_mul(x, kind), 37)
    torch.testing.assert_close(actual, reference.activation_and_mul(inputs, kind), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [8, 20, 64, 100])
@pytest.mark.parametrize("parameters", [("weight", "bias"), ("weight",), ()], ids=lambda p: "-".join(p) or "bare")
def test_a_layer_norm_is_that_of_float64(instruction_set: str, width: int, parameters: tuple[str, ...]) -> None:
    """Far from zero too, where a variance made of mean squares would have nothing left."""
    kernels = kernels_for(instruction_set)
    inputs = random(9, width) * 6 + 1000
    weight = random(width, seed=1) if "weight" in parameters else None
    bias = random(width, seed=2) if "bias" in parameters else None

    def run(x: torch.Tensor) -> torch.Tensor:
        normalised, total = kernels.layer_norm(x, weight, bias, 1e-5)
        again: torch.Tensor = kernels.layer_norm(normalised, weight, bias, 1e-5, total)[0]
        return again

    def exact(x: torch.Tensor) -> torch.Tensor:
        gain, shift = (None if vector is None else vector.double() for vector in (weight, bias))
        return nn.functional.layer_norm(x, (width,), gain, shift, 1e-5)

    expected = exact(exact(inputs.double()) + inputs.double())
    torch.testing.assert_close(outcome(kernels, inputs, run, width).double(), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int8"])
def test_an_embedding_gives_the_rows_of_its_table(instruction_set: str, kind: str) -> None:
    kernels = kernels_for(instruction_set)
    table = random(70, 36)
    weight: Weight = quantized(table) if kind == "int8" else table.clone().to(getattr(torch, kind))
    expected = ReferenceKernels().embedding(torch.arange(70), weight).float()

    class Lookup(Recipe):
        def __call__(self, context: ForwardContext) -> torch.Tensor:
            out: torch.Tensor = self.kernels.embedding(context.batch.token_ids, weight)
            return out

    forward = bind(kernels, Lookup(kernels, table, None, 36))
    forward.run(batch_of(70))
    assert torch.equal(forward.logits(torch.arange(70).numpy()), expected)


class TwoAlike:
    """Two ranks that hold the same, as one of them sees them. The call that is the `failing`th fails."""

    rank, size = 0, 2

    def __init__(self, failing: int = 0) -> None:
        self.num_calls, self.failing = 0, failing

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        if self.num_calls == self.failing:
            raise LookupError("the other rank is gone")
        return tensor.mul_(2)

    def gather(self, tensor: torch.Tensor, width: int) -> torch.Tensor:
        return torch.cat((tensor, tensor), dim=-1)[:, :width]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_sum_over_ranks_is_what_the_next_product_reads(kind: str) -> None:
    kernels, reference, inputs = CpuKernels(), ReferenceKernels(), random(7, 64)

    def operations(k: Any) -> Any:
        table = random(48, 64, seed=1)
        weight: Weight = quantized(table) if kind == "int8" else table.to(getattr(torch, kind))
        return lambda x: k.linear(k.all_reduce(x, TwoAlike()), weight if k is kernels or kind == "int8" else table)

    expected = operations(reference)(inputs.clone())
    rounding = 0.05 if kind == "bfloat16" else 1e-4
    torch.testing.assert_close(
        outcome(kernels, inputs, operations(kernels), 48), expected, rtol=rounding, atol=rounding
    )


def test_a_token_of_another_rank_is_embedded_as_zeros() -> None:
    kernels, table = CpuKernels(), random(4, 36)
    expected = torch.zeros(9, 36)
    expected[3:7] = table
    own = table.clone()

    class Lookup(Recipe):
        def __call__(self, context: ForwardContext) -> torch.Tensor:
            out: torch.Tensor = self.kernels.embedding(context.batch.token_ids, own, first_id=3)
            return out

    forward = bind(kernels, Lookup(kernels, table, None, 36))
    forward.run(batch_of(9))
    assert torch.equal(forward.logits(torch.arange(9).numpy()), expected)
    assert torch.equal(ReferenceKernels().embedding(torch.arange(9), table, first_id=3), expected)


def test_the_heads_products_of_all_ranks_are_gathered() -> None:
    kernels, inputs = CpuKernels(), random(5, 24)

    class Gathered(Recipe):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.kernels.gather(super().logits(hidden), TwoAlike(), 40)
            return out

    forward = bind(kernels, Gathered(kernels, inputs, lambda x: x, 24))
    forward.run(batch_of(5))
    assert torch.equal(forward.logits(torch.arange(5).numpy()), torch.cat((inputs, inputs[:, :16]), dim=1))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_error_in_a_collective_leaves_the_program_and_the_next_step_runs(num_threads: int) -> None:
    kernels, ranks, inputs = CpuKernels(num_threads=num_threads), TwoAlike(failing=2), random(6, 16)

    def operations(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = kernels.all_reduce(x, ranks)
        return x

    forward = bind(kernels, Recipe(kernels, inputs, operations, 16))
    with pytest.raises(LookupError, match="the other rank is gone"):
        forward.run(batch_of(6))
    assert ranks.num_calls == 2, "what follows has not run"
    forward.run(batch_of(6))
    assert torch.equal(forward.logits(torch.arange(6).numpy()), inputs * 8)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_tokens_and_positions_are_looked_up_each_in_its_table_scaled_and_added(instruction_set: str) -> None:
    kernels = kernels_for(instruction_set)
    tokens, positions = random(50, 36), random(20, 36, seed=1)
    table = tokens.clone()

    class Summed(Recipe):
        def __call__(self, context: ForwardContext) -> torch.Tensor:
            embedded = self.kernels.embedding(context.batch.token_ids, tokens, 2.5)
            out: torch.Tensor = self.kernels.add(embedded, self.kernels.embedding(context.batch.positions, self.inputs))
            return out

    forward = bind(kernels, Summed(kernels, positions, None, 36))
    batch = replace(batch_of(9), token_ids=torch.tensor([40, 3, 49, 0, 0, 7, 31, 32, 33]))
    forward.run(batch)
    expected = table[batch.token_ids] * 2.5 + positions[:9]
    torch.testing.assert_close(forward.logits(torch.arange(9).numpy()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_activations_of_zero_and_huge_ones_survive_int8(instruction_set: str) -> None:
    kernels = kernels_for(instruction_set)
    inputs = torch.stack([torch.zeros(40), torch.full((40,), 1e30), torch.full((40,), -1e-30)])
    weight = quantized(torch.eye(40))
    actual = outcome(kernels, inputs, lambda x: kernels.linear(x, weight), 40)
    torch.testing.assert_close(actual, inputs, rtol=1e-5, atol=0)


def test_binding_gives_the_memory_of_packed_parameters_back() -> None:
    kernels = CpuKernels()
    weight = nn.Parameter(random(64, 32), requires_grad=False)
    outcome(kernels, random(2, 32), lambda x: kernels.linear(x, weight), 64)
    assert weight.untyped_storage().nbytes() == weight.itemsize
    assert weight.shape == (64, 32), "which widths of what follows are read from"


def test_an_unknown_instruction_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'mmx'.*avx512.*avx2.*portable"):
        CpuKernels("mmx")


def test_operations_outside_a_recording_are_refused() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        CpuKernels().activation_and_mul(torch.zeros(1, 2), "silu")


def test_a_layer_that_touches_activations_past_the_kernels_is_refused() -> None:
    with pytest.raises(ModelError, match="'mul'"):
        outcome(CpuKernels(), random(2, 8), lambda x: x * 2, 8)


def test_an_operation_that_a_backend_lacks_is_named() -> None:
    kernels = CpuKernels()
    with pytest.raises(ModelError, match="'reference' have no operation 'scale_by'"):
        ReferenceKernels().record("scale_by", [8], hidden=random(2, 8))
    with pytest.raises(ValueError, match="no operation 'scale_by'"):
        outcome(kernels, random(2, 8), lambda x: kernels.record("scale_by", [8], hidden=x)[0], 8)


def test_the_process_has_one_openmp_runtime() -> None:
    code = (
        "import torch, re, octavo.kernels._cpu as c; c.instruction_set();"
        "maps = open('/proc/self/maps').read();"
        "print(len(set(re.findall(r'\\S*/lib(?:gomp|iomp5|omp)\\S*', maps))))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "1"


def test_instruction_sets_can_be_asked_for_by_name() -> None:
    assert _cpu.instruction_set("portable") == "portable"
    assert _cpu.instruction_set() in INSTRUCTION_SETS


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 1023, 1025, 3001])
def test_the_likeliest_token_is_the_first_of_the_highest_logits(name: str, vocab_size: int) -> None:
    kernels, generator = kernels_for(name), torch.Generator().manual_seed(vocab_size)
    for num_values in (1, 3, 10_000):  # few values: many equals
        logits = torch.randint(-num_values, 0, (70, vocab_size), generator=generator).float()
        recipe = Recipe(kernels, torch.eye(70), lambda hidden: hidden, 70)
        recipe.identity = logits.T.contiguous()
        forward = bind(kernels, recipe)
        forward.run(batch_of(70))
        assert torch.equal(forward.logits(np.arange(70)), logits)
        found, _ = forward.most_likely(np.arange(70), np.zeros(70, np.int64))
        assert found.tolist() == logits.numpy().argmax(axis=1).tolist()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("odd", [1.0, torch.nan])
def test_likeliest_tokens_of_logits_that_are_not_finite_are_the_references(name: str, odd: float) -> None:
    kernels, weights = kernels_for(name), random(2050, 1)
    weights[77], weights[2049] = 1000, odd
    recipe = Recipe(kernels, torch.tensor([[1.0], [-1.0], [1e36], [-1e36], [torch.nan], [torch.inf]]), lambda x: x, 1)
    recipe.identity = weights
    forward = bind(kernels, recipe)
    forward.run(batch_of(6))
    logits, fallback = forward.logits(np.arange(6)).clone(), np.arange(10, 16)
    found, broken = forward.most_likely(np.arange(6), fallback)
    wanted, wanted_broken = most_likely(logits, fallback)
    assert torch.equal(found, wanted)
    assert broken.tolist() == wanted_broken.tolist()
    assert broken.any()
    assert found[[0, 2, 4]].tolist() == [77, 77, 14]
