"""The tiny checkpoints as GGUF files, laid out as llama.cpp's converter (convert_hf_to_gguf.py) does it."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import transformers
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tiny_checkpoints import VARIANTS

Array = np.ndarray[Any, Any]
F32 = gguf.GGMLQuantizationType.F32

NAMES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
    "GPT2LMHeadModel": "gpt2",
}
"""What the format calls each architecture. It does not know OPT."""

IMPLIED: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"hidden_act": "silu"},
    "MixtralForCausalLM": {"hidden_act": "silu"},
    "Gemma3ForCausalLM": {"query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh"},
    "GPT2LMHeadModel": {"activation_function": "gelu_new"},
}
"""Fields of configs that the format leaves to the architecture (a Gemma's scale follows from the heads' width)."""

UNSAYABLE: set[tuple[str, str]] = {
    ("LlamaForCausalLM", "yarn rope with DeepSeek's amplitude, not truncated"),
    ("LlamaForCausalLM", "dynamic rope"),
    ("Qwen2ForCausalLM", "a window in later layers"),
    ("Qwen2ForCausalLM", "a window by the layers' types"),
    ("Qwen3ForCausalLM", "a window in later layers"),
    ("GPT2LMHeadModel", "scores scaled by layer"),
    ("GPT2LMHeadModel", "scores not scaled"),
}
"""Variants for which the format has no metadata."""

GGUF_VARIANTS = [variant for variant in VARIANTS if variant[0] in NAMES and variant not in UNSAYABLE]


def make_gguf(
    path: Path,
    folder: Path,
    quantization: gguf.GGMLQuantizationType | Callable[[str], gguf.GGMLQuantizationType] = F32,
    metadata: dict[str, Any] | None = None,
    tensors_per_file: int = 0,
    quantize: Callable[[Array, gguf.GGMLQuantizationType], Array] = gguf.quants.quantize,
) -> Path:
    """Write a folder's model as a GGUF file.

    Matrices are quantized, perhaps by their names in the file; vectors stay float32. `metadata` is added as it is. With
    `tensors_per_file` the model is split into files `-00001-of-0000N.gguf` and on.
    """
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    name = NAMES[config.architectures[0]]
    writer = gguf.GGUFWriter(path, name, split_max_tensors=tensors_per_file)
    _add_sizes(writer, config)
    if name != "gpt2":
        _add_rotary(writer, config, name)
    for key, value in (metadata or {}).items():
        value_type = gguf.GGUFValueType.ARRAY if isinstance(value, list) else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, value_type)
    for stored, values in _tensors(config, name, folder):
        kind = F32 if values.ndim == 1 else quantization(stored) if callable(quantization) else quantization
        writer.add_tensor(stored, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    """What all have, and what only some: experts, windows, softcaps."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or _gpt2_width(config))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    if config.architectures[0] == "GPT2LMHeadModel":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    if config.architectures[0] == "MixtralForCausalLM":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _gpt2_width(config: Any) -> int:
    return int(config.n_inner or 4 * config.n_embd)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_rotary(writer: gguf.GGUFWriter, config: Any, name: str) -> None:
    rope = config.rope_parameters
    if name == "gemma3":
        local, rope = rope["sliding_attention"], rope["full_attention"]
        writer.add_rope_freq_base_swa(local["rope_theta"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    else:
        writer.add_rope_dimension_count(int(_head_dim(config) * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        adders = {
            "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
            "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
            "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
        }
        for field in adders.keys() & rope.keys():
            adders[field](rope[field])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(_head_dim(config), rope))
    if rope["rope_type"] == "longrope":
        original = config.original_max_position_embeddings
        stretch = config.max_position_embeddings / original
        attention_factor = rope.get("attention_factor") or math.sqrt(1 + math.log(stretch) / math.log(original))
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(attention_factor)
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))


def _llama3_factors(head_dim: int, rope: dict[str, Any]) -> Array:
    """Unscaled over scaled frequencies, from transformers' own."""
    config = transformers.LlamaConfig(head_dim=head_dim, rope_parameters=rope)
    scaled = LlamaRotaryEmbedding(config).inv_freq.numpy()
    unscaled = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    return np.asarray(unscaled / scaled, dtype=np.float32)


def _tensors(config: Any, name: str, folder: Path) -> Iterator[tuple[str, Array]]:
    """The checkpoint's tensors under the format's names, changed as the converter changes them."""
    kind = next(kind for kind, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    experts: dict[str, list[Array]] = {}
    for own, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        merged, is_expert = re.subn(r"\.experts\.\d+\.", ".experts.", own)
        stored = str(names.get_name(merged, try_suffixes=(".weight", ".bias")))
        if is_expert:
            experts.setdefault(stored, []).append(values)
        else:
            yield stored, _converted(config, name, own, values)
    for stored, matrices in experts.items():
        yield stored, np.stack(matrices)


def _converted(config: Any, name: str, own: str, values: Array) -> Array:
    if name == "llama" and ".q_proj." in own:
        return _interleaved(values, config.num_attention_heads)
    if name == "llama" and ".k_proj." in own:
        return _interleaved(values, config.num_key_value_heads)
    if name == "gemma3" and own.endswith("norm.weight"):
        return values + 1
    if name == "gpt2" and own.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
        return np.ascontiguousarray(values.T)
    return values


def _interleaved(rows: Array, num_heads: int) -> Array:
    """The two halves of each head's rows, alternating."""
    halves = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
