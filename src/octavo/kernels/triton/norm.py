"""RMS norm of hidden states, with the sum of a residual before it."""

import torch
import triton
import triton.language as tl

from octavo.kernels.triton.layout import power_of_2


def rms_norm(
    hidden: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `Operations.rms_norm`. `hidden` and `residual` are `[num_tokens, width]`, contiguous."""
    num_tokens, width = hidden.shape
    normalised = torch.empty_like(hidden)
    total = hidden if residual is None else torch.empty_like(hidden)
    block = power_of_2(width)
    _rms_norm[(num_tokens,)](
        normalised, total, hidden, residual, weight, eps, width, BLOCK=block, num_warps=max(1, min(8, block // 512))
    )
    return normalised, total


@triton.jit
def _rms_norm(normalised, total, hidden, residual, weight, eps, width, BLOCK: tl.constexpr):
    """One token. It is read once; what is normalised is the rounded sum, as in the reference."""
    first = tl.program_id(0).to(tl.int64) * width
    dims = tl.arange(0, BLOCK)
    is_dim = dims < width
    own = tl.load(hidden + first + dims, mask=is_dim, other=0.0)
    if residual is not None:
        other = tl.load(residual + first + dims, mask=is_dim, other=0.0)
        own = (own.to(tl.float32) + other.to(tl.float32)).to(own.dtype)
        tl.store(total + first + dims, own, mask=is_dim)
    wide = own.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    scale = tl.load(weight + dims, mask=is_dim, other=0.0)
    rounded = (wide * inverse).to(scale.dtype).to(tl.float32)
    tl.store(normalised + first + dims, (rounded * scale.to(tl.float32)).to(scale.dtype).to(own.dtype), mask=is_dim)
