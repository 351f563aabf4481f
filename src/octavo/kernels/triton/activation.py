"""Activation-and-multiply of gated feed-forward layers."""

import torch
import triton
import triton.language as tl

from octavo.kernels.operations import ActivationKind

BLOCK = 1024
"""Elements of one program."""


def activation_and_mul(gate_up: torch.Tensor, kind: ActivationKind) -> torch.Tensor:
    """As `Operations.activation_and_mul`. `gate_up` is contiguous."""
    num_tokens, both = gate_up.shape
    width = both // 2
    product = torch.empty(num_tokens, width, dtype=gate_up.dtype, device=gate_up.device)
    _activation_and_mul[(num_tokens, triton.cdiv(width, BLOCK))](
        product, gate_up, width, KIND=kind, BLOCK=BLOCK, num_warps=4
    )
    return product


@triton.jit
def _activation_and_mul(product, gate_up, width, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of one token. The activation is rounded before the product, as in the reference."""
    token = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_dim = dims < width
    gate = tl.load(gate_up + token * 2 * width + dims, mask=is_dim, other=0.0)
    up = tl.load(gate_up + token * 2 * width + width + dims, mask=is_dim, other=0.0)
    activated = activate(gate.to(tl.float32), KIND).to(gate.dtype)
    tl.store(product + token * width + dims, (activated.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=is_dim)


@triton.jit
def activate(numbers, KIND: tl.constexpr):
    if KIND == "relu":
        return tl.maximum(numbers, 0.0)
    if KIND == "silu":
        return numbers / (1.0 + tl.exp(-numbers))
    if KIND == "gelu":
        return 0.5 * numbers * (1.0 + tl.erf(numbers * 0.7071067811865476))
    inner = 0.7978845608028654 * (numbers + 0.044715 * numbers * numbers * numbers)
    return numbers / (1.0 + tl.exp(-2.0 * inner))  # times (1 + tanh(inner)) / 2
