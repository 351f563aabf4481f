"""Reads LLaMA-family models from a GGUF file: config, names, and weights dequantized slice by slice."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from gguf.quants import dequantize

from octavo.errors import ModelError
from octavo.models.config import ModelConfig
from octavo.models.weights.gguf_header import GGUFHeader, TensorInfo

SLICE_BYTES = 8 << 20
"""Dequantized at a time, as float32: small beside any model, and large beside a call's cost."""

_ARCHITECTURES = {"llama": ("LlamaForCausalLM", MODEL_ARCH.LLAMA)}
_FIELDS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "expert_count": "num_experts",
}
_ROTARY_FACTORS = "rope_freqs.weight"


def config_fields(header: GGUFHeader) -> dict[str, Any]:
    """The metadata under config.json's names, for `parse_config`.

    Raises:
        ModelError: the architecture is not one that is read from GGUF files.
    """
    metadata, tensors = header.metadata, header.tensors
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ModelError(f"{header.path}: unknown GGUF architecture {architecture!r}; known ones: {known}")
    own = {key.removeprefix(f"{architecture}."): value for key, value in metadata.items()}
    fields = {name: own[key] for key, name in _FIELDS.items() if key in own}
    fields["architectures"] = [_ARCHITECTURES[architecture][0]]
    fields["vocab_size"] = own.get("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    fields["tie_word_embeddings"] = "output.weight" not in tensors
    fields["attention_bias"] = "blk.0.attn_q.bias" in tensors
    fields["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    fields["eos_token_id"] = [
        metadata[key] for kind in ("eos", "eot", "eom") if (key := f"tokenizer.ggml.{kind}_token_id") in metadata
    ]
    fields["rope_scaling"] = _rope_scaling(header, own)
    _check_rotary_width(header, own, fields)
    return fields


def _rope_scaling(header: GGUFHeader, own: dict[str, Any]) -> dict[str, Any] | None:
    kind = own.get("rope.scaling.type", "linear" if "rope.scale_linear" in own else "none")
    if kind != "none":
        return {"rope_type": kind, "factor": own.get("rope.scaling.factor", own.get("rope.scale_linear"))}
    if _ROTARY_FACTORS in header.tensors:
        info = header.tensors[_ROTARY_FACTORS]
        factors = dequantize(_map_rows(header, info)[0], info.quantization)
        return {"rope_type": "frequency_factors", "factors": factors.tolist()}
    return None


def _check_rotary_width(header: GGUFHeader, own: dict[str, Any], fields: dict[str, Any]) -> None:
    """Llama files give the rotated dimensions of a head: all of them, or the model is not a LLaMA."""
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        width = fields.get("head_dim", hidden // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if own.get(key, width) != width:
                raise ModelError(f"{header.path}: {key} is {own[key]}, other than the head's {width} dimensions")


class GGUFTensors:
    """A GGUF file's tensors under their Hugging Face names; a `TensorSource`."""

    def __init__(self, header: GGUFHeader, config: ModelConfig, wanted: Iterable[str]) -> None:
        """`wanted` are the Hugging Face names to offer; other tensors keep the file's names."""
        self.header = header
        self.config = config
        architecture = _ARCHITECTURES[header.metadata["general.architecture"]][1]
        name_map = get_tensor_name_map(architecture, config.num_hidden_layers)
        named = {name_map.get_name(name, try_suffixes=(".weight", ".bias")): name for name in wanted}
        self._stored_names = {
            named.get(stored, stored): stored for stored in header.tensors if stored != _ROTARY_FACTORS
        }

    def names(self) -> list[str]:
        """In the file's order."""
        return list(self._stored_names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return self.header.tensors[self._stored_names[name]].shape

    def file(self, name: str) -> str:
        """The file that holds the tensor."""
        return str(self.header.path)

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        """`(first row, float32 values)` over `rows`, about `SLICE_BYTES` at a time.

        Raises:
            ModelError: the gguf package does not know how to dequantize the tensor.
        """
        info = self.header.tensors[self._stored_names[name]]
        stored = _map_rows(self.header, info)
        if len(info.shape) == 1:
            values = self._dequantize(name, info, stored).reshape(-1)[_stored_rows(name, rows, self.config)]
            yield rows.start, torch.from_numpy(values)
            return
        rows_at_once = max(1, SLICE_BYTES // (4 * info.shape[-1]))
        for start in range(rows.start, rows.stop, rows_at_once):
            piece = range(start, min(rows.stop, start + rows_at_once))
            yield start, torch.from_numpy(self._dequantize(name, info, stored[_stored_rows(name, piece, self.config)]))

    def _dequantize(self, name: str, info: TensorInfo, stored: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
        try:
            # The map is read-only and float32 comes through as it is: torch wants memory that could be written.
            return np.require(dequantize(stored, info.quantization), np.float32, "W")
        except NotImplementedError as error:
            raise ModelError(f"tensor {name!r} in {self.header.path}: {error}") from error


def _map_rows(header: GGUFHeader, info: TensorInfo) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The tensor's bytes, `[rows, row_bytes]`, memory-mapped."""
    mapped = np.memmap(header.path, np.uint8, "r", info.offset, (info.num_rows, info.row_bytes))
    return np.asarray(mapped)


def _stored_rows(name: str, rows: range, config: ModelConfig) -> Any:
    """Where a GGUF keeps rows of a LLaMA's tensor, as an index.

    llama.cpp rotates neighbouring dimensions, not the halves of a head, so its converter interleaves the halves of
    each head's rows in the query and key projections (`permute` in convert_hf_to_gguf.py).
    """
    if ".self_attn.q_proj." not in name and ".self_attn.k_proj." not in name:
        return slice(rows.start, rows.stop)
    wanted, width = np.arange(rows.start, rows.stop), config.head_dim
    half, pair = np.divmod(wanted % width, width // 2)
    return wanted - wanted % width + 2 * pair + half
