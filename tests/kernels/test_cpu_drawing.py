"""The C++ kernels draw the tokens that the reference draws, on every instruction set."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from octavo.kernels.cpu import CpuKernels
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.sampling.interface import PARAMETERS, SamplingBatch

CUTOFFS = list(product([0, 1, 5, 400], [1.0, 0.9, 0.3, 1e-9], [0.0, 0.05, 1.0]))
"""Top-k, top-p and min-p."""
EVERY_MIXTURE = [(temperature, *cutoffs) for temperature in (1e-300, 0.3, 1.0, 3.0, 1e30) for cutoffs in CUTOFFS]


@pytest.fixture(params=["amx", "avx512bf16", "avx512", "avx2", "portable"])
def kernels(request: pytest.FixtureRequest) -> CpuKernels:
    try:
        return CpuKernels(request.param)
    except ValueError as error:
        pytest.skip(str(error))


def batch_of(rows: list[tuple[float, int, float, float]], fallback: int = 0) -> SamplingBatch:
    """Rows by temperature, top-k, top-p and min-p."""
    parameters = np.zeros(len(rows), PARAMETERS)
    for row, (temperature, top_k, top_p, min_p) in enumerate(rows):
        parameters[row] = (temperature, top_k, top_p, min_p, -1, 0, 2**63 + row, row % 3)
    return SamplingBatch(np.full(len(rows), fallback), parameters, np.arange(len(rows)))


def random_logits(num_rows: int, vocab_size: int, kind: str) -> torch.Tensor:
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 4
    if kind == "many equals":
        return logits.round()
    if kind == "mostly forbidden":
        forbidden = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.95
        forbidden[:, vocab_size // 2] = False
        return logits.masked_fill(forbidden, -torch.inf)
    return logits


@cache
def references_tokens(vocab_size: int, kind: str) -> torch.Tensor:
    """Of `EVERY_MIXTURE`."""
    logits = random_logits(len(EVERY_MIXTURE), vocab_size, kind)
    return ReferenceKernels().sample(logits, batch_of(EVERY_MIXTURE)).token_ids


@pytest.mark.parametrize("kind", ["spread", "many equals", "mostly forbidden"])
@pytest.mark.parametrize("vocab_size", [1, 17, 300, 5000])
def test_every_mixture_of_cutoffs_draws_the_references_tokens(kernels: CpuKernels, vocab_size: int, kind: str) -> None:
    logits = random_logits(len(EVERY_MIXTURE), vocab_size, kind)
    before = logits.clone()
    drawn = kernels.sample(logits, batch_of(EVERY_MIXTURE))
    assert torch.equal(drawn.token_ids, references_tokens(vocab_size, kind))
    assert not drawn.broken.any()
    assert torch.equal(logits, before)


def test_rows_without_a_finite_maximum_get_what_the_reference_gives_them(kernels: CpuKernels) -> None:
    logits = random_logits(6, 50, "spread")
    logits[1, 49], logits[2, 3], logits[3] = torch.nan, torch.inf, torch.nan
    logits[4] = -torch.inf
    batch = batch_of([(0.8, 0, 0.9, 0.0)] * 6, fallback=7)
    drawn, wanted = kernels.sample(logits, batch), ReferenceKernels().sample(logits, batch)
    assert torch.equal(drawn.token_ids, wanted.token_ids)
    assert drawn.token_ids[[2, 3, 4]].tolist() == [3, 7, 7]
    assert drawn.broken.tolist() == [False, True, True, True, True, False]


def test_a_rows_token_depends_on_no_other_row(kernels: CpuKernels) -> None:
    rows = [(1.0, *cutoffs) for cutoffs in CUTOFFS] + [(0.0, 0, 1.0, 0.0)] * 2
    logits, batch = random_logits(len(rows), 300, "spread"), batch_of(rows)
    together = kernels.sample(logits, batch).token_ids
    for chosen in (np.arange(len(rows))[::-1].copy(), np.array([49, 3, 20]), *np.arange(len(rows))[:, None]):
        alone = kernels.sample(logits[chosen], batch.at(chosen)).token_ids
        assert torch.equal(alone, together[chosen])
