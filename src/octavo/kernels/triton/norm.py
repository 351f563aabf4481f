"""Norms of hidden states, with the sum of a residual before them."""

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
        normalised, total, hidden, residual, weight, eps, width, BLOCK=block, num_warps=_num_warps(block)
    )
    return normalised, total


def layer_norm(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `Operations.layer_norm`. `hidden` and `residual` are `[num_tokens, width]`, contiguous."""
    num_tokens, width = hidden.shape
    normalised = torch.empty_like(hidden)
    total = hidden if residual is None else torch.empty_like(hidden)
    block = power_of_2(width)
    _layer_norm[(num_tokens,)](
        normalised, total, hidden, residual, weight, bias, eps, width, BLOCK=block, num_warps=_num_warps(block)
    )
    return normalised, total


def _num_warps(block: int) -> int:
    return max(1, min(8, block // 512))


@triton.jit
def _rms_norm(normalised, total, hidden, residual, weight, eps, width, BLOCK: tl.constexpr):
    """One token. It is read once; what is normalised is the rounded sum, as in the reference."""
    first = tl.program_id(0).to(tl.int64) * width
    dims = tl.arange(0, BLOCK)
    is_dim = dims < width
    own = _add(total, hidden, residual, first + dims, is_dim)
    wide = own.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    scale = tl.load(weight + dims, mask=is_dim, other=0.0)
    rounded = (wide * inverse).to(scale.dtype).to(tl.float32)
    tl.store(normalised + first + dims, (rounded * scale.to(tl.float32)).to(scale.dtype).to(own.dtype), mask=is_dim)


@triton.jit
def _layer_norm(normalised, total, hidden, residual, weight, bias, eps, width, BLOCK: tl.constexpr):
    """One token, read once. `weight` and `bias` may be None."""
    first = tl.program_id(0).to(tl.int64) * width
    dims = tl.arange(0, BLOCK)
    is_dim = dims < width
    own = _add(total, hidden, residual, first + dims, is_dim)
    wide = own.to(tl.float32)
    centred = tl.where(is_dim, wide - tl.sum(wide, 0) / width, 0.0)
    result = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    if weight is not None:
        result *= tl.load(weight + dims, mask=is_dim, other=0.0).to(tl.float32)
    if bias is not None:
        result += tl.load(bias + dims, mask=is_dim, other=0.0).to(tl.float32)
    tl.store(normalised + first + dims, result.to(own.dtype), mask=is_dim)


@triton.jit
def _add(total, hidden, residual, places, is_dim):
    """The sum of a token's two parts, rounded and kept in `total`; `residual` may be None."""
    own = tl.load(hidden + places, mask=is_dim, other=0.0)
    if residual is not None:
        other = tl.load(residual + places, mask=is_dim, other=0.0)
        own = (own.to(tl.float32) + other.to(tl.float32)).to(own.dtype)
        tl.store(total + places, own, mask=is_dim)
    return own
