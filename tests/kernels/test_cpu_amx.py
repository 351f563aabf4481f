"""Products in AMX's tiles: those of integers have the bits of AVX-512's, and bfloat16 rows' do not depend on others."""

from typing import Any

import numpy as np
import pytest
import torch

from kernels.recorded import Recipe, batch_of, bind, grouped, kernels_for, outcome, quantized, random
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.grouped import GroupedForm
from octavo.kernels.operations import Weight

TABLE = (-128, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 127)
FORMS = [
    None,
    GroupedForm(4, 16),
    GroupedForm(4, 32, table=TABLE),
    GroupedForm(4, 64, has_minimums=True),
    GroupedForm(4, 128),
    GroupedForm(8, 16, has_minimums=True),
    GroupedForm(8, 32),
    GroupedForm(8, 128, has_minimums=True),
]
"""Of grouped weights, and None for an int8 one."""
SHAPES = [(33, 37), (70, 150), (5, 1), (64, 290), (40, 192), (32, 96)]
ROWS = [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 64, 65, 70, 130]


def name_of(form: GroupedForm | None) -> str:
    return "int8" if form is None else f"{form.bits} bits by {form.group}{' less minimums' * form.has_minimums}"


def weight_of(form: GroupedForm | None, num_outputs: int, num_inputs: int, seed: int = 0) -> Weight:
    if form is None:
        return quantized(random(num_outputs, num_inputs, seed=seed))
    return grouped(form, num_outputs, num_inputs, seed)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def amx(request: pytest.FixtureRequest) -> CpuKernels:
    kernels_for("amx")
    return CpuKernels("amx", request.param)


class Headed(Recipe):
    """A recipe whose head is a weight."""

    weight: Weight

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.kernels.linear(hidden, self.weight)
        return result


def head_of(kernels: CpuKernels, weight: Weight, inputs: torch.Tensor) -> Any:
    """A function from rows of the inputs, in any order, to their products."""
    recipe = Headed(kernels, inputs, lambda x: x, weight.shape[0])
    recipe.weight = weight
    forward = bind(kernels, recipe)
    forward.run(batch_of(len(inputs)))
    return lambda rows: forward.logits(np.asarray(rows)).clone()


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_products_of_integers_have_the_bits_of_avx512(amx: CpuKernels, form: GroupedForm | None) -> None:
    for num_outputs, num_inputs in SHAPES:
        inputs, bias = random(ROWS[-1], num_inputs), random(num_outputs, seed=2)
        results = []
        for kernels in (amx, CpuKernels("avx512vbmi", 1)):
            weight = weight_of(form, num_outputs, num_inputs)
            model = Recipe(kernels, inputs, lambda x, k=kernels, w=weight, b=bias: k.linear(x, w, b), num_outputs)
            forward = bind(kernels, model)
            own = []
            for num_rows in ROWS:
                forward.run(batch_of(num_rows))
                own.append(forward.logits(np.arange(num_rows)).clone())
            results.append(own)
        for actual, expected in zip(*results, strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
@pytest.mark.parametrize(
    "rows",
    [list(range(3, 43)), [*range(20), *range(22, 40)], list(range(40, 0, -1)), [7] * 33],
    ids=["in order", "with a gap", "backwards", "one row again and again"],
)
def test_listed_rows_have_the_bits_of_avx512(amx: CpuKernels, form: GroupedForm | None, rows: list[int]) -> None:
    inputs = random(45, 150)
    expected = head_of(CpuKernels("avx512vbmi", 1), weight_of(form, 70, 150), inputs)(rows)
    assert torch.equal(head_of(amx, weight_of(form, 70, 150), inputs)(rows), expected)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_layer_of_experts_has_the_bits_of_avx512(amx: CpuKernels, form: GroupedForm | None) -> None:
    inputs, router = random(60, 100), random(3, 100, seed=1)

    def experts(kernels: CpuKernels) -> torch.Tensor:
        gate_up = [weight_of(form, 80, 100, seed) for seed in range(3)]
        down = [weight_of(form, 100, 40, seed) for seed in range(3)]
        return outcome(kernels, inputs, lambda x: kernels.experts(x, router, gate_up, down, 2, "silu"), 100)

    assert torch.equal(experts(amx), experts(CpuKernels("avx512vbmi", 1)))


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(96, 64), (33, 37), (70, 600), (5, 1)])
def test_a_bfloat16_products_row_has_the_same_bits_alone_and_among_others(
    amx: CpuKernels, num_outputs: int, num_inputs: int
) -> None:
    weight, inputs = random(num_outputs, num_inputs, seed=1).to(torch.bfloat16), random(70, num_inputs)
    product = head_of(amx, weight.clone(), inputs)
    whole = product(range(70))
    exact = inputs.to(torch.bfloat16).double() @ weight.double().T
    torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=2e-5)
    for row in range(70):
        assert torch.equal(product([row])[0], whole[row])
    for num_rows in range(2, 70):
        rows = list(range(70 - num_rows, 70))
        assert torch.equal(product(rows), whole[rows])
        assert torch.equal(product(rows[::-1]), whole[rows[::-1]])
