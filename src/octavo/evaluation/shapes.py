"""Shapes of models that people serve, for benchmarks with random weights."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TOKENIZER = "smollm2"
"""Whose tokens every shape has; a larger vocabulary's other ids have no text."""

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_LLAMA_3: dict[str, Any] = {
    **_LLAMA,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
}


def _opt(hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "hidden_size": hidden_size,
        "word_embed_proj_dim": hidden_size,
        "ffn_dim": 4 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "vocab_size": 50_272,
        "max_position_embeddings": 2048,
        "torch_dtype": "float16",
        "bos_token_id": 2,
        "eos_token_id": 2,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {
        **_LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 49_152,
        "max_position_embeddings": 8192,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
    },
    "llama-3b": {
        **_LLAMA_3,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "tie_word_embeddings": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama-8b": {
        **_LLAMA_3,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama-13b": {
        **_LLAMA,
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
        "torch_dtype": "float16",
    },
    "opt-13b": _opt(5120, 40, 40),
    "opt-66b": _opt(9216, 64, 72),
    "opt-175b": _opt(12_288, 96, 96),
}
"""A config.json each: TinyLlama's with SmolLM2's vocabulary (1.1 billion weights), LLaMA 3.2 3B, LLaMA 3.1 8B, and the
paper's models: LLaMA 13B (Touvron et al., 2023) and OPT (Zhang et al., 2022)."""


@contextlib.contextmanager
def shape_folder(name: str) -> Iterator[Path]:
    """A folder with the config.json of a shape and nothing else, for `--load-format dummy`; it is gone in the end."""
    with TemporaryDirectory(prefix=f"octavo-{name}-") as folder:
        path = Path(folder)
        (path / "config.json").write_text(json.dumps(SHAPES[name], indent=1) + "\n")
        yield path
