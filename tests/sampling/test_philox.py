"""Counter-based random numbers: the published values, and what makes them random."""

import numpy as np
import pytest

from octavo.sampling.philox import philox4x32, uniform

# The known-answer vectors of Random123 1.14 (kat_vectors, philox4x32 10): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(*texts: str) -> np.ndarray:
    return np.array([[int(word, 16) for word in text.split()] for text in texts], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    assert np.array_equal(philox4x32(words(counter), words(key)), words(expected))


def test_rows_of_a_batch_are_computed_apart() -> None:
    counters, keys, expected = (words(*column) for column in zip(*KNOWN_ANSWERS, strict=True))
    assert np.array_equal(philox4x32(counters, keys), expected)


def test_a_number_is_the_top_53_bits_of_the_first_two_words() -> None:
    assert uniform([0], [0], [0])[0] == ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53


def test_both_halves_of_the_seed_count() -> None:
    numbers = uniform([1, 1 << 32, 1 + (1 << 32), 2**64 - 1], [0] * 4, [0] * 4)
    assert len(set(numbers)) == 4


@pytest.mark.parametrize("varied", range(3), ids=["seed", "sequence", "position"])
def test_numbers_are_uniform_and_uncorrelated_along_each_argument(varied: int) -> None:
    count = 100_000
    arguments = [np.full(count, 3, dtype=np.uint64) for _ in range(3)]
    arguments[varied] = np.arange(count, dtype=np.uint64)
    numbers = uniform(*arguments)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    bins = np.histogram(numbers, bins=100, range=(0, 1))[0]
    chi_square = ((bins - count / 100) ** 2 / (count / 100)).sum()
    assert 50 < chi_square < 160  # 99 degrees of freedom: outside with a chance under 1 in 10,000
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 0.015


def test_sequences_of_one_seed_are_uncorrelated() -> None:
    positions = np.arange(50_000)
    first, second = (uniform(np.full(50_000, 9, dtype=np.uint64), np.full(50_000, i), positions) for i in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
