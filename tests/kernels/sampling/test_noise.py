"""The noise of the exponential race: fixed for ever, of the right distribution, independent wherever it should be."""

import numpy as np
import pytest
import torch

from octavo.kernels.sampling.noise import exponential, hash_tokens
from octavo.kernels.sampling.philox import row_keys

WORD = 2**32 - 1
LARGEST_SEED = 2**64 - 1


def mix_one(word: int) -> int:
    word = (word ^ word >> 16) * 0x7FEB352D & WORD
    word = (word ^ word >> 15) * 0x846CA68B & WORD
    return word ^ word >> 16


def make_keys(seeds: list[int], sequences: list[int], positions: list[int]) -> torch.Tensor:
    return torch.from_numpy(row_keys(seeds, sequences, positions).view(np.int32))


def noise(keys: torch.Tensor, token_ids: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return exponential(hash_tokens(token_ids), keys, dtype)


KEYS = make_keys([0, LARGEST_SEED, 7], [0, 1, 2], [0, 5, 100])
FIXED_IDS = torch.tensor([[0, 1, 2, 49151, 151935]])
# What seeds gave when the race was introduced. A change here gives every user's seed another text.
FIXED_WORDS = [
    [2297984051, 2875254381, 2544663422, 3984275376, 4106871171],
    [2382524378, 450673333, 3586344478, 3899840654, 2847893953],
    [2134784689, 760188155, 2516003215, 653204859, 2526469590],
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_noise_never_changes(dtype: torch.dtype, tolerance: float) -> None:
    expected = -np.log1p(-(np.array(FIXED_WORDS) + 0.5) / 2**32)
    np.testing.assert_allclose(noise(KEYS, FIXED_IDS, dtype).numpy(), expected, rtol=tolerance)


def test_the_words_are_those_of_arithmetic_without_sign_or_width() -> None:
    for (factor, offset), words in zip(KEYS.tolist(), FIXED_WORDS, strict=True):
        mixed = [mix_one(mix_one(token_id) * (factor & WORD | 1) + offset & WORD) for token_id in FIXED_IDS[0].tolist()]
        assert mixed == words


def test_no_two_tokens_share_a_hash() -> None:
    assert len(set(hash_tokens(torch.arange(300_000)).tolist())) == 300_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_has_the_same_noise_alone_and_among_others(dtype: torch.dtype) -> None:
    token_ids = torch.arange(1031)
    together = noise(KEYS, token_ids.unsqueeze(0), dtype)
    some = torch.stack([token_ids[3::7], token_ids[1:1031:7][:147], token_ids[5::7]])
    assert torch.equal(noise(KEYS, some, dtype), together.gather(1, some))
    for row in range(3):
        assert torch.equal(noise(KEYS[row : row + 1], token_ids[-5:].unsqueeze(0), dtype)[0], together[row, -5:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_above_zero_and_finite_at_both_ends_of_the_words(dtype: torch.dtype) -> None:
    # With these keys a token's word is the mixture of its id's mixture, a permutation of all words: undone, they are
    # the smallest and the largest words.
    ends = torch.tensor([[0, unmix_one(unmix_one(WORD))]])
    found = exponential(hash_tokens(ends), torch.tensor([[1, 0]], dtype=torch.int32), dtype)[0].double()
    assert found[0] == pytest.approx(2**-33, rel=1e-6)
    assert 16 < found[1] < 23


def unmix_one(word: int) -> int:
    word ^= word >> 16
    word = word * pow(0x846CA68B, -1, 2**32) & WORD
    word ^= word >> 15 ^ word >> 30
    word = word * pow(0x7FEB352D, -1, 2**32) & WORD
    return word ^ word >> 16


def chi_square_of(shares: np.ndarray) -> float:
    """Of 100 equal bins of [0, 1], 99 degrees of freedom: outside 50 to 160 with a chance under 1 in 10,000."""
    bins = np.histogram(shares, bins=100, range=(0, 1))[0]
    expected = shares.size / 100
    return float(((bins - expected) ** 2 / expected).sum())


VARIED = ["seed", "sequence", "position"]


def keys_along(varied: str, count: int) -> torch.Tensor:
    """Keys that differ in one argument by one."""
    steps, fixed = list(range(count)), [3] * count
    return make_keys(*(steps if name == varied else fixed for name in VARIED))


@pytest.mark.parametrize("varied", VARIED)
def test_noise_is_exponential_along_each_argument_and_over_tokens(varied: str) -> None:
    found = noise(keys_along(varied, 400), torch.arange(400).unsqueeze(0)).numpy()
    shares = -np.expm1(-found)
    assert 50 < chi_square_of(shares) < 160
    for token in (0, 1, 399):
        long = -np.expm1(-noise(keys_along(varied, 50_000), torch.tensor([[token]])).numpy())
        assert 50 < chi_square_of(long) < 160
    assert 50 < chi_square_of(-np.expm1(-noise(KEYS[:1], torch.arange(150_000).unsqueeze(0)).numpy())) < 160


@pytest.mark.parametrize("varied", VARIED)
@pytest.mark.parametrize(("row_lag", "token_lag"), [(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 256), (16, 16)])
def test_neighbours_are_uncorrelated(varied: str, row_lag: int, token_lag: int) -> None:
    shares = -np.expm1(-noise(keys_along(varied, 500), torch.arange(500).unsqueeze(0)).numpy())
    moved = np.roll(shares, (row_lag, token_lag), axis=(0, 1))
    pairs = np.histogram2d(shares.ravel(), moved.ravel(), bins=10, range=[(0, 1), (0, 1)])[0]
    expected = shares.size / 100
    assert ((pairs - expected) ** 2 / expected).sum() < 160
    assert abs(np.corrcoef(shares.ravel(), moved.ravel())[0, 1]) < 0.01  # 5 standard deviations
