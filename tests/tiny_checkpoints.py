"""Tiny checkpoints made with transformers, and what transformers computes with them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from octavo.models.config import ModelConfig

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Weights large enough that the most likely token stands out."""

TINY_LLAMA = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=TINY["vocab_size"],
    hidden_size=TINY["hidden_size"],
    intermediate_size=TINY["intermediate_size"],
    num_hidden_layers=TINY["num_hidden_layers"],
    num_attention_heads=TINY["num_attention_heads"],
    num_key_value_heads=TINY["num_key_value_heads"],
    head_dim=8,
    max_position_embeddings=TINY["max_position_embeddings"],
)
"""What its config.json says."""

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}

SLIDING = {"use_sliding_window": True, "sliding_window": 7}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}


def longrope(**more: Any) -> dict[str, Any]:
    """LongRoPE for heads of 8 dimensions, over 16 positions."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.3, 1.5],
        "long_factor": [1.2, 2.0, 3.0, 7.0],
        "original_max_position_embeddings": 16,
        **more,
    }


@dataclass(frozen=True)
class Family:
    """An architecture as the tests know it. Fields are those of its config's class in transformers."""

    tiny: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    """What its config can ask for, each as fields over the tiny ones."""


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        TINY,
        {
            "grouped heads": {},
            "a KV head for each head": {"num_key_value_heads": 4},
            "one KV head": {"num_key_value_heads": 1},
            "tied embeddings": {"tie_word_embeddings": True},
            "biases": {"attention_bias": True, "mlp_bias": True},
            "explicit head_dim": {"head_dim": 20},
            "another theta and epsilon": {"rope_theta": 500.0, "rms_norm_eps": 0.1},
            "another activation": {"hidden_act": "gelu"},
            "linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
            "llama3 rope": {"rope_parameters": LLAMA3},
            "yarn rope": {"head_dim": 32, "rope_parameters": YARN, "max_position_embeddings": 16},
            "yarn rope with other turns and a given amplitude": {
                "rope_parameters": {**YARN, "beta_fast": 3.0, "beta_slow": 0.25, "attention_factor": 1.5}
            },
            "yarn rope with DeepSeek's amplitude, not truncated": {
                "head_dim": 64,
                "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False},
            },
            "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}},
        },
    ),
    "MistralForCausalLM": Family(
        {**TINY, "sliding_window": None},
        {
            "no window": {},
            "a window": {"sliding_window": 7},
            "explicit head_dim": {"head_dim": 20, "sliding_window": 16},
            "yarn rope": {"head_dim": 32, "rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5}},
        },
    ),
    "Qwen2ForCausalLM": Family(
        TINY,
        {
            "no window": {"sliding_window": 7, "max_window_layers": 0},
            "yarn rope, its length by the factor": {"max_position_embeddings": 16, "rope_parameters": YARN},
            "a window in later layers": {**SLIDING, "max_window_layers": 1},
            "a window by the layers' types": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
            "tied embeddings": {"tie_word_embeddings": True},
        },
    ),
    "Qwen3ForCausalLM": Family(
        {**TINY, "head_dim": 16},
        {
            "norms of heads": {},
            "biases": {"attention_bias": True, "rms_norm_eps": 0.1},
            "yarn rope": {"rope_parameters": {**YARN, "rope_theta": 1e6}},
            "a window in later layers": {**SLIDING, "max_window_layers": 1},
            "tied embeddings": {"tie_word_embeddings": True, "num_key_value_heads": 1},
        },
    ),
    "MixtralForCausalLM": Family(
        {**TINY, "num_local_experts": 4},
        {
            "two of four experts": {},
            "one of three experts": {"num_local_experts": 3, "num_experts_per_tok": 1},
            "all experts, a window": {"num_experts_per_tok": 4, "sliding_window": 7, "hidden_act": "gelu"},
        },
    ),
    "Gemma3ForCausalLM": Family(
        {**TINY, "head_dim": 16, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
        {
            "windows and full attention": {},
            "windows by a pattern": {"layer_types": None, "sliding_window_pattern": 2},
            "biases and an untied head": {"attention_bias": True, "tie_word_embeddings": False},
            "another scale and activation": {"query_pre_attn_scalar": 24, "hidden_activation": "silu"},
            "scaled rotary positions": {"rope_parameters": GEMMA3_ROPE, "rms_norm_eps": 0.1},
        },
    ),
    "GPT2LMHeadModel": Family(
        {
            "vocab_size": 97,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.25,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        {
            "plain": {},
            "another width, epsilon and activation": {
                "n_inner": 56,
                "layer_norm_epsilon": 0.1,
                "activation_function": "relu",
            },
            "scores scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
            "scores not scaled": {"scale_attn_weights": False},
            "a head of its own": {"tie_word_embeddings": False},
        },
    ),
    "OPTForCausalLM": Family(
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "ffn_dim": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "init_std": 0.25,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        {
            "plain": {},
            "norms after, narrow embeddings": {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
            "no final norm": {"_remove_final_layer_norm": True},
            "no biases, bare norms, gelu": {
                "enable_bias": False,
                "layer_norm_elementwise_affine": False,
                "activation_function": "gelu",
            },
            "a head of its own": {"tie_word_embeddings": False, "word_embed_proj_dim": 20},
        },
    ),
    "Phi3ForCausalLM": Family(
        {**TINY, "pad_token_id": 0},
        {
            "plain": {},
            "sliding window": {"sliding_window": 9},
            "partly rotated": {
                "num_attention_heads": 2,
                "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75},
            },
            "longrope": {"original_max_position_embeddings": 16, "rope_parameters": longrope()},
            "longrope with a given factor, tied": {
                "original_max_position_embeddings": 16,
                "rope_parameters": longrope(attention_factor=1.5),
                "tie_word_embeddings": True,
            },
        },
    ),
}
"""The architectures that Octavo runs."""

TINY_ENCODER: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.25,
    "sep_token_id": 5,
}

POOLING_FAMILIES: dict[str, Family] = {
    "BertModel": Family(
        TINY_ENCODER,
        {
            "plain": {},
            "one segment": {"type_vocab_size": 1},
            "another activation and epsilon": {"hidden_act": "relu", "layer_norm_eps": 0.1},
        },
    ),
    "BertForMaskedLM": Family(TINY_ENCODER, {"its body": {}}),
    "RobertaModel": Family(TINY_ENCODER, {"plain": {}, "padding elsewhere": {"pad_token_id": 3}}),
    "XLMRobertaModel": Family(TINY_ENCODER, {"plain": {"type_vocab_size": 1}}),
    "LlamaModel": Family(TINY, {"causal": {}}),
    "Qwen3Model": Family({**TINY, "head_dim": 16}, {"causal": {}, "windows": {**SLIDING, "max_window_layers": 1}}),
    "Gemma3TextModel": Family(
        FAMILIES["Gemma3ForCausalLM"].tiny, {"causal": {}, "both ways": {"use_bidirectional_attention": True}}
    ),
    "BertForSequenceClassification": Family(TINY_ENCODER, {"three classes": {"num_labels": 3}}),
    "RobertaForSequenceClassification": Family(TINY_ENCODER, {"three classes": {"num_labels": 3}}),
    "XLMRobertaForSequenceClassification": Family(TINY_ENCODER, {"one class": {"num_labels": 1}}),
    "LlamaForSequenceClassification": Family({**TINY, "pad_token_id": 0}, {"three classes": {"num_labels": 3}}),
    "Qwen3ForSequenceClassification": Family({**TINY, "pad_token_id": 0}, {"one class": {"num_labels": 1}}),
}
"""Architectures that generate nothing: those that compute something of their own."""

VARIANTS = [(architecture, name) for architecture, family in FAMILIES.items() for name in family.variants]


def make_checkpoint(
    folder: Path,
    architecture: str,
    variant: str | None = None,
    *,
    dtype: str = "float32",
    max_shard_size: str = "1GB",
    **overrides: Any,
) -> Path:
    """Save a small random model, always the same for the same arguments, and return its folder.

    `overrides` are fields of the config over those of the variant. There is no tokenizer.
    """
    family = (FAMILIES | POOLING_FAMILIES)[architecture]
    model_class: Any = getattr(transformers, architecture)
    fields = {**family.tiny, **(family.variants[variant] if variant else {}), **overrides}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**fields))
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name.lower() or ".ln_" in name
            if is_norm or name.endswith("bias"):
                is_gain = is_norm and name.endswith("weight")
                torch.nn.init.normal_(parameter, mean=float(is_gain), std=0.3)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def make_llama(folder: Path, **options: Any) -> Path:
    """A small random LLaMA: `make_checkpoint`."""
    return make_checkpoint(folder, "LlamaForCausalLM", **options)


@lru_cache(maxsize=1)
def transformers_from_gguf(path: Path, num_layers: int) -> Any:
    """A LLaMA in a GGUF file as transformers reads it, in float32.

    What `from_pretrained(folder, gguf_file=...)` does, without the accelerate package that it asks for. The last one
    is kept, as reading takes transformers some seconds; don't change it.
    """
    with torch.device("meta"):  # only its parameters' names are used
        named = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**TINY, "num_hidden_layers": num_layers}))
    read_checkpoint: Any = load_gguf_checkpoint
    # It asks for the same large table once for each module.
    with mock.patch("gguf.get_tensor_name_map", lru_cache(gguf.get_tensor_name_map)):
        read = read_checkpoint(path, return_tensors=True, model_to_load=named)
    config = transformers.LlamaConfig(**read["config"])
    return transformers.LlamaForCausalLM.from_pretrained(None, config=config, state_dict=read["tensors"])


def transformers_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """The oracle: logits `[num_tokens, vocab_size]` of one sequence computed in one go."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([token_ids])).logits[0]
    return logits
