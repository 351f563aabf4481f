"""What config.json says of weights that are packed to few bits: AWQ, GPTQ and compressed-tensors. Torch-free."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from octavo.errors import ModelError

Method = Literal["awq", "gptq", "compressed-tensors"]


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint's matrices are packed."""

    method: Method
    bits: int = 4
    """Of a code; compressed-tensors has both beside each other."""
    zero_offset: int = 0
    """What the stored zero points lack."""


class _Awq(msgspec.Struct, kw_only=True):
    bits: int = 4
    w_bit: int | None = None
    zero_point: bool = True
    version: str = "gemm"


class _Gptq(msgspec.Struct, kw_only=True):
    bits: int
    checkpoint_format: str = "gptq"
    dynamic: dict[str, Any] | None = None


class _CompressedTensors(msgspec.Struct, kw_only=True):
    format: str


def read_packing(fields: dict[str, Any], source: str) -> Packing | None:
    """What a config.json's `quantization_config` says; None where there is none.

    Raises:
        ModelError: weights are packed in a way that is not read.
    """
    asked = fields.get("quantization_config") or fields.get("compression_config")
    if asked is None:
        return None
    method = asked.get("quant_method") if isinstance(asked, dict) else None
    reader = {"awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed_tensors}.get(str(method))
    if reader is None:
        raise ModelError(
            f"{source}: weights quantized by {method!r} (quantization_config.quant_method) are not read; awq, gptq and "
            "compressed-tensors are, and GGUF files"
        )
    try:
        return reader(asked, source)
    except msgspec.ValidationError as error:
        raise ModelError(f"{source}: quantization_config is not usable: {error}") from error


def _awq(asked: dict[str, Any], source: str) -> Packing:
    own = msgspec.convert(asked, _Awq)
    bits, version = own.w_bit or own.bits, own.version.lower()
    if bits != 4 or version != "gemm" or not own.zero_point:
        raise ModelError(
            f"{source}: AWQ weights of {bits} bits in version {version!r} with zero_point {own.zero_point} are not "
            "read; 4 bits in 'gemm' with zero points are"
        )
    return Packing("awq")


def _gptq(asked: dict[str, Any], source: str) -> Packing:
    own = msgspec.convert(asked, _Gptq)
    if own.bits not in (4, 8) or own.checkpoint_format not in ("gptq", "gptq_v2"):
        raise ModelError(
            f"{source}: GPTQ weights of {own.bits} bits in format {own.checkpoint_format!r} are not read; 4 and 8 in "
            "'gptq' and 'gptq_v2' are"
        )
    if own.dynamic:
        raise ModelError(f"{source}: GPTQ weights whose bits differ by layer (dynamic) are not read")
    return Packing("gptq", own.bits, zero_offset=1 if own.checkpoint_format == "gptq" else 0)


def _compressed_tensors(asked: dict[str, Any], source: str) -> Packing:
    own = msgspec.convert(asked, _CompressedTensors)
    if own.format != "pack-quantized":
        raise ModelError(
            f"{source}: compressed-tensors in format {own.format!r} are not read; 'pack-quantized' is, of 4 and 8 bits"
        )
    return Packing("compressed-tensors")
