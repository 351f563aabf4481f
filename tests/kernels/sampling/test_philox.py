"""Counter-based random numbers: the published values, and a key for each token to be drawn."""

import numpy as np
import pytest

from octavo.kernels.sampling.philox import philox4x32, row_keys

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


def test_a_key_is_the_first_two_words_of_what_seed_sequence_and_position_give() -> None:
    assert np.array_equal(row_keys([0], [0], [0]), words("6627e8d5 e169c58d"))
    counter, key = words("00000005 00000003 00000000 00000000"), words("89abcdef 01234567")
    assert np.array_equal(row_keys([0x0123456789ABCDEF], [3], [5]), philox4x32(counter, key)[:, :2])


def test_every_seed_sequence_and_position_has_a_key_of_its_own() -> None:
    seeds = [0, 1, 2, 1 << 32, 1 + (1 << 32), 2**64 - 1]
    arguments = np.array([(seed, i, p) for seed in seeds for i in range(20) for p in range(200)], dtype=np.uint64)
    assert len(np.unique(row_keys(*arguments.T), axis=0)) == len(arguments)
