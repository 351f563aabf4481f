"""Counter-based random numbers: a function of seed, sequence and position, so that nothing is stored or copied.

Philox4x32-10 from Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ten rounds of Philox on every row.

    Args:
        counter: `[n, 4]`.
        key: `[n, 2]`.

    Returns:
        `[n, 4]`, each word uniform over 32 bits.
    """
    # 64-bit lanes hold the full products of 32-bit words.
    words = [column.astype(np.uint64) for column in counter.T]
    keys = [column.astype(np.uint64) for column in key.T]
    for _ in range(ROUNDS):
        product0, product1 = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [
            (product1 >> _SHIFT) ^ words[1] ^ keys[0],
            product1 & _LOW,
            (product0 >> _SHIFT) ^ words[3] ^ keys[1],
            product0 & _LOW,
        ]
        keys = [(lane + step) & _LOW for lane, step in zip(keys, _KEY_STEPS, strict=True)]
    return np.stack(words, axis=-1).astype(np.uint32)


def row_keys(seeds: ArrayLike, sequence_indices: ArrayLike, output_positions: ArrayLike) -> NDArray[np.uint32]:
    """A key of 64 random bits for each (seed, sequence, position).

    Args:
        seeds: `[n]`, 0 to 2^64 - 1: Philox's key.
        sequence_indices: `[n]`, below 2^32: which of the request's sequences.
        output_positions: `[n]`, below 2^32: how many tokens the sequence has generated.

    Returns:
        `[n, 2]`, the first two words that Philox gives.
    """
    seed = np.asarray(seeds, dtype=np.uint64)
    key = np.stack([seed & _LOW, seed >> _SHIFT], axis=-1).astype(np.uint32)
    counter = np.zeros((seed.shape[0], 4), dtype=np.uint32)
    counter[:, 0] = output_positions
    counter[:, 1] = sequence_indices
    return philox4x32(counter, key)[:, :2].copy()
