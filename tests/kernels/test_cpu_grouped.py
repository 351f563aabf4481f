"""The C++ products with weights in groups of inputs against the reference, on every instruction set."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from kernels.recorded import CPU, INSTRUCTION_SETS, Recipe, batch_of, bind, grouped, kernels_for, outcome, random
from octavo.kernels import _cpu
from octavo.kernels.attention import ForwardContext
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.grouped import GroupedForm, GroupedWeight
from octavo.kernels.quantized import QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels

TABLE = (-128, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 127)
GROUPS, TABLES = [16, 32, 64, 256], [None, TABLE]
FORMS = [GroupedForm(4, *rest) for rest in itertools.product(GROUPS, [False, True], TABLES)] + [
    GroupedForm(8, *rest) for rest in itertools.product(GROUPS, [False, True])
]
SOME_FORMS = [
    GroupedForm(4, 32),
    GroupedForm(4, 16, table=TABLE),
    GroupedForm(4, 128, has_minimums=True),
    GroupedForm(8, 16, has_minimums=True),
]
ROWS = [1, 2, 3, 4, 5, 7, 12, 13, 30]
ON_EACH = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)


def name_of(form: GroupedForm) -> str:
    return f"{form.bits} bits by {form.group}{' less minimums' * form.has_minimums}{' by a table' * bool(form.table)}"


def product_of(kernels: CpuKernels, weight: GroupedWeight, inputs: torch.Tensor) -> Any:
    """A function from a number of rows to their products."""
    forward = bind(kernels, Recipe(kernels, inputs, lambda x: kernels.linear(x, weight), weight.shape[0]))

    def run(num_rows: int) -> torch.Tensor:
        forward.run(batch_of(num_rows))
        return forward.logits(np.arange(num_rows)).clone()

    return run


@ON_EACH
@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_products_are_those_of_the_reference_and_a_rows_own_at_any_number_of_rows(
    instruction_set: str, form: GroupedForm
) -> None:
    kernels = kernels_for(instruction_set)
    for num_outputs, num_inputs in ((33, 37), (70, 150), (5, 1), (32, 290)):
        weight, inputs = grouped(form, num_outputs, num_inputs), random(ROWS[-1], num_inputs)
        expected = ReferenceKernels().linear(inputs, weight)
        product = product_of(kernels, weight, inputs)
        actual = product(ROWS[-1])
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))
        for num_rows in ROWS:
            assert torch.equal(product(num_rows), actual[:num_rows])


@ON_EACH
@pytest.mark.parametrize("form", SOME_FORMS, ids=name_of)
def test_long_rows_in_large_batches_have_the_bits_of_single_ones(instruction_set: str, form: GroupedForm) -> None:
    kernels = kernels_for(instruction_set)
    weight, inputs = grouped(form, 66, 1200), random(110, 1200)
    expected = ReferenceKernels().linear(inputs, weight)
    product = product_of(kernels, weight, inputs)
    actual = product(110)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))
    for num_rows in (1, 6, 25, 49, 97):
        assert torch.equal(product(num_rows), actual[:num_rows])


@ON_EACH
@pytest.mark.parametrize("form", SOME_FORMS, ids=name_of)
def test_sums_are_exact_integers_even_at_extreme_values(instruction_set: str, form: GroupedForm) -> None:
    """With all scales 1 and minimums 0 the outputs are the sums themselves; int64 knows them."""
    kernels = kernels_for(instruction_set)
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(-127, 128, (20, 200), generator=generator)
    values[-1], values[0] = -127, 127
    values[:, ::32] = 127  # so that each scale is 1
    weight = grouped(form, 40, 200)
    extremes = (0x00, 0xFF) if form.bits == 4 else (-128, 127)
    for output, extreme in enumerate(extremes):
        weight.codes.data[output] = extreme
    weight.scales.data.fill_(1)
    weight.row_scales.data.fill_(1)
    if weight.minimums is not None:
        weight.minimums.data.zero_()
    expected = values @ weight.numbers().long().T
    actual = outcome(kernels, values.float(), lambda x: kernels.linear(x, weight), 40)
    assert torch.equal(actual.long(), expected)


@pytest.mark.parametrize("form", SOME_FORMS, ids=name_of)
def test_products_do_not_depend_on_the_number_of_threads(form: GroupedForm) -> None:
    inputs, threads = random(30, 300), torch.get_num_threads()
    products = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            products.append(product_of(CpuKernels(), grouped(form, 200, 300), inputs)(30))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(products[1], products[0])
    assert torch.equal(products[2], products[0])


@ON_EACH
def test_the_outputs_of_several_weights_lie_side_by_side(instruction_set: str) -> None:
    kernels, inputs = kernels_for(instruction_set), random(9, 130)
    shapes = [(70, SOME_FORMS[0]), (3, SOME_FORMS[3]), (40, SOME_FORMS[2])]
    bias = random(113, seed=2)
    weights = [grouped(form, num_outputs, 130, seed=num_outputs) for num_outputs, form in shapes]
    alone = [product_of(kernels, grouped(form, count, 130, seed=count), inputs)(9) for count, form in shapes]
    actual = outcome(kernels, inputs, lambda x: kernels.linear(x, weights, bias), 113)
    assert torch.equal(actual, torch.cat(alone, dim=1) + bias)


@ON_EACH
@pytest.mark.parametrize("form", SOME_FORMS, ids=name_of)
def test_an_embedding_gives_a_weights_rows(instruction_set: str, form: GroupedForm) -> None:
    kernels, weight = kernels_for(instruction_set), grouped(form, 40, 150)
    expected = weight.dequantized()

    class Lookup(Recipe):
        def __call__(self, context: ForwardContext) -> torch.Tensor:
            out: torch.Tensor = self.kernels.embedding(context.batch.token_ids, weight)
            return out

    forward = bind(kernels, Lookup(kernels, torch.zeros(1, 1), None, 150))
    forward.run(batch_of(40))
    assert torch.equal(forward.logits(np.arange(40)), expected)


class Headed(Recipe):
    """A recipe whose head is a weight in groups."""

    weight: GroupedWeight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.kernels.linear(hidden, self.weight)
        return result


@ON_EACH
def test_a_head_in_groups_gives_the_logits_of_any_rows_and_the_likeliest(instruction_set: str) -> None:
    kernels, inputs = kernels_for(instruction_set), random(20, 100)
    expected = product_of(kernels, grouped(SOME_FORMS[2], 150, 100), inputs)(20)
    recipe = Headed(kernels, inputs, lambda x: x, 150)
    recipe.weight = grouped(SOME_FORMS[2], 150, 100)
    forward = bind(kernels, recipe)
    forward.run(batch_of(20))
    rows = np.array([17, 3, 4, 11])
    assert torch.equal(forward.logits(rows), expected[rows])
    token_ids, broken = forward.most_likely(rows, np.zeros(4, np.int64))
    assert torch.equal(token_ids, expected[rows].argmax(dim=1))
    assert not broken.any()


@ON_EACH
@pytest.mark.parametrize("forms", [(form, SOME_FORMS[3]) for form in SOME_FORMS[1:3]], ids=str)
def test_experts_in_groups_are_those_of_the_reference(
    instruction_set: str, forms: tuple[GroupedForm, GroupedForm]
) -> None:
    kernels, inputs = kernels_for(instruction_set), random(11, 60)
    router, (first, second) = random(3, 60, seed=1), forms

    def experts(k: Any, x: torch.Tensor) -> torch.Tensor:
        gate_up = [grouped(form, 80, 60, seed) for seed, form in enumerate((first, second, first))]
        down = [grouped(second, 60, 40, seed) for seed in range(3)]
        out: torch.Tensor = k.experts(x, router, gate_up, down, 2, "relu")
        return out

    expected = experts(ReferenceKernels(), inputs)
    actual = outcome(kernels, inputs, lambda x: experts(kernels, x), 60)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_activations_are_not_in_groups_of_both_lengths() -> None:
    kernels = CpuKernels()
    other = QuantizedWeight(32, 64, CPU)
    other.values.data, other.scales.data = quantize_rows(random(32, 64))
    with pytest.raises(ValueError, match="unlike weights"):
        outcome(kernels, random(2, 64), lambda x: kernels.linear(x, [grouped(SOME_FORMS[0], 32, 64), other]), 64)


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (4, 8), (4, 33), (8, 0)])
def test_a_weight_of_other_bits_or_groups_is_refused(bits: int, group: int) -> None:
    memory = np.zeros(1 << 12, np.uint8)
    address = memory.ctypes.data
    with pytest.raises(ValueError, match="4 or 8 bits"):
        _cpu.Weight.grouped(_cpu.ThreadPool(1), bits, 4, 32, group, address, address, address)
