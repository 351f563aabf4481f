"""The tiny checkpoints with their matrices packed as AWQ, GPTQ and compressed-tensors define it, number by number."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Array = np.ndarray[Any, Any]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Scheme:
    """One way to pack: the file's method, bits and group, and whether codes have zero points of their own."""

    method: str
    bits: int = 4
    group: int = 32
    has_zeros: bool = True
    act_order: bool = False
    version: str = "gptq"

    def config(self) -> dict[str, Any]:
        """What config.json says of it."""
        if self.method == "awq":
            return {"quant_method": "awq", "bits": 4, "group_size": self.group, "zero_point": True, "version": "gemm"}
        if self.method == "gptq":
            return {
                "quant_method": "gptq",
                "bits": self.bits,
                "group_size": self.group,
                "sym": not self.has_zeros,
                "desc_act": self.act_order,
                "checkpoint_format": self.version,
            }
        weights = {"num_bits": self.bits, "type": "int", "symmetric": not self.has_zeros, "group_size": self.group}
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def pack_folder(folder: Path, target: Path, scheme: Scheme) -> tuple[Path, Path]:
    """Pack the matrices of a folder's layers.

    Returns:
        The packed folder, and one of the same numbers unpacked, in float32.
    """
    packed, plain = target / "packed", target / "plain"
    stored = load_file(folder / "model.safetensors")
    packed_tensors, plain_tensors = {}, {}
    for name, values in stored.items():
        if values.ndim < 2 or not name.endswith("proj.weight"):
            packed_tensors[name] = plain_tensors[name] = values
            continue
        codes, zeros, scales, groups = _quantized(values.numpy(), scheme)
        plain_tensors[name] = torch.from_numpy((codes - zeros[:, groups]) * scales[:, groups]).to(torch.float32)
        stem = name.removesuffix(".weight")
        pack = {"awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed}[scheme.method]
        own = pack(codes, zeros, scales, groups, scheme)
        packed_tensors |= {f"{stem}.{part}": torch.from_numpy(tensor.copy()) for part, tensor in own.items()}
    for path, tensors in ((packed, packed_tensors), (plain, plain_tensors)):
        shutil.copytree(folder, path)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": scheme.config()}))
    return packed, plain


def _quantized(values: Array, scheme: Scheme) -> tuple[Array, Array, Array, Array]:
    """Codes `[outputs, inputs]`, zero points and scales `[outputs, groups]`, and each input's group."""
    num_inputs = values.shape[1]
    group = num_inputs if scheme.group == -1 else scheme.group
    order = np.random.default_rng(0).permutation(num_inputs) if scheme.act_order else np.arange(num_inputs)
    groups = order // group
    largest = 2**scheme.bits - 1
    zeros, scales = (np.empty((len(values), groups.max() + 1)) for _ in range(2))
    for index in range(groups.max() + 1):
        own = values[:, groups == index].astype(np.float64)
        low, high = np.minimum(own.min(axis=1), 0), np.maximum(own.max(axis=1), 0)
        if scheme.has_zeros:
            scales[:, index] = np.float16((high - low) / largest)
            zeros[:, index] = np.clip(np.round(-low / scales[:, index]), 1, largest)
        else:
            scales[:, index] = np.float16(2 * np.maximum(high, -low) / largest)
            zeros[:, index] = (largest + 1) // 2
    codes = np.clip(np.round(values / scales[:, groups]) + zeros[:, groups], 0, largest)
    return codes.astype(np.int64), zeros.astype(np.int64), scales, groups


def _words(codes: Array, bits: int, order: tuple[int, ...] | None = None) -> Array:
    """`[n, width]` -> int32 words of the last dimension, a word's first code in its lowest bits."""
    per_word = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    words = np.zeros((len(codes), padded.shape[1] // per_word), np.uint32)
    for place, index in enumerate(order or range(per_word)):
        words |= padded[:, index::per_word].astype(np.uint32) << np.uint32(bits * place)
    return words.view(np.int32)


def _awq(codes: Array, zeros: Array, scales: Array, groups: Array, scheme: Scheme) -> dict[str, Array]:
    return {
        "qweight": _words(codes.T, 4, AWQ_ORDER),
        "qzeros": _words(zeros.T, 4, AWQ_ORDER),
        "scales": scales.T.astype(np.float16),
    }


def _gptq(codes: Array, zeros: Array, scales: Array, groups: Array, scheme: Scheme) -> dict[str, Array]:
    less = 1 if scheme.version == "gptq" else 0
    return {
        "qweight": _words(codes, scheme.bits).T,
        "qzeros": _words(zeros.T - less, scheme.bits),
        "scales": scales.T.astype(np.float16),
        "g_idx": groups.astype(np.int32),
        "bias": np.zeros(len(codes), np.float16),  # as AutoGPTQ writes them for models that have none
    }


def _compressed(codes: Array, zeros: Array, scales: Array, groups: Array, scheme: Scheme) -> dict[str, Array]:
    own = {
        "weight_packed": _words(codes, scheme.bits),
        "weight_scale": scales.astype(np.float16),
        "weight_shape": np.array(codes.shape, np.int64),
    }
    if scheme.act_order:
        own["weight_g_idx"] = groups.astype(np.int32)
    return own | ({"weight_zero_point": _words(zeros.T, scheme.bits).T} if scheme.has_zeros else {})
