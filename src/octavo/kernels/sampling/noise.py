"""Exponential noise for each token of each row: a function of the row's key and the token's id alone.

The integers are the same on every device; the noise differs by rounding of the logarithm at most.
"""

import torch

_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))
_SHIFTS = (16, 15, 16)


def hash_tokens(token_ids: torch.Tensor) -> torch.Tensor:
    """Scatter token ids over 32 bits, as `exponential` takes them: once for all the rows that share them.

    Args:
        token_ids: any shape, below 2^32.

    Returns:
        The same shape, int32: no two tokens get the same.
    """
    return _mix(token_ids.to(torch.int32, copy=True))


def exponential(hashed: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Independent noise of the exponential distribution with mean 1, out of 32 bits each.

    Float32 noise lies between 2^-33 and 16.7, float64 noise between 2^-33 and 22.9.

    Args:
        hashed: `[num_rows, num_tokens]`, or `[1, num_tokens]` for the same tokens in every row: from `hash_tokens`.
        keys: `[num_rows, 2]` int32, uniform over all 64 bits. The lowest has no effect.
        dtype: float32 or float64, of the noise.

    Returns:
        `[num_rows, num_tokens]`, above zero and finite.
    """
    # A random odd factor and a random offset: rows aren't merely shifts of one another before they are mixed.
    words = _mix(hashed * (keys[:, :1] | 1) + keys[:, 1:])
    uniforms = words.view(torch.uint32).to(dtype).mul_(2.0**-32).add_(2.0**-33)
    # Rounding may have given 1, whose noise would be infinite.
    return uniforms.clamp_(max=1 - torch.finfo(dtype).eps / 2).neg_().log1p_().neg_()


def _mix(words: torch.Tensor) -> torch.Tensor:
    """A permutation of the 32-bit integers under which every bit depends on every bit, in place on int32.

    It is Wellons's `lowbias32` (github.com/skeeto/hash-prospector, 2018). Products wrap around.
    """
    shifted = torch.empty_like(words)
    for step, shift in enumerate(_SHIFTS):
        # torch shifts int32 arithmetically: the mask takes the copies of the sign away.
        torch.bitwise_right_shift(words, shift, out=shifted).bitwise_and_((1 << (32 - shift)) - 1)
        words.bitwise_xor_(shifted)
        if step < len(_MULTIPLIERS):
            words.mul_(_MULTIPLIERS[step])
    return words
