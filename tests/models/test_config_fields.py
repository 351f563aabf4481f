"""What config.json says of windows, positions and experts is read as transformers reads it, or refused by name."""

import dataclasses
from typing import Any

import pytest
import torch

from octavo.errors import ModelError
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import FULL, Window
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.models.config import ModelConfig
from octavo.models.parts import kinds_of
from octavo.models.registry import build_model, config_of, translated

META = ModelBuild(torch.float32, torch.device("meta"), ReferenceKernels())
SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def read(architecture: str, **fields: Any) -> ModelConfig:
    raw = {"architectures": [architecture], **SIZES, **fields}
    return config_of(translated(raw, "config.json"), "config.json")


def test_both_spellings_of_gemma3s_positions_mean_the_same() -> None:
    old = read(
        "Gemma3ForCausalLM",
        rope_theta=2e6,
        rope_local_base_freq=500.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=2,
    )
    new = read(
        "Gemma3ForCausalLM",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    assert old == new
    assert (old.rope_theta, old.extra["rope_local_base_freq"]) == (2e6, 500.0)


def test_gemma3s_absent_fields_have_the_defaults_of_transformers() -> None:
    config = read("Gemma3ForCausalLM")
    assert (config.head_dim, config.tie_word_embeddings, config.hidden_act) == (256, True, "gelu_tanh")
    assert (config.rope_theta, config.extra["rope_local_base_freq"]) == (1e6, 1e4)
    assert kinds_of(config) == [Window(4096)] * 4


def test_gemma3_in_16_bits_rounds_its_embeddings_scale_and_keeps_its_norms_in_float32() -> None:
    model = build_model(read("Gemma3ForCausalLM", hidden_size=96), dataclasses.replace(META, dtype=torch.bfloat16))
    parameters = dict(model.named_parameters())
    assert parameters["embed_tokens.weight"].dtype == torch.bfloat16
    assert {parameters[name].dtype for name in ("norm.weight", "layers.0.self_attn.q_norm.weight")} == {torch.float32}
    scales = [module.scale for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    assert scales == [9.8125]  # the square root of 96 is 9.798


@pytest.mark.parametrize("kind", [{"type": "su"}, {"type": "longrope"}, {"rope_type": "longrope"}])
def test_all_spellings_of_phi3s_positions_mean_the_same(kind: dict[str, str]) -> None:
    factors = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    old = read(
        "Phi3ForCausalLM",
        rope_theta=500.0,
        rope_scaling=kind | factors,
        original_max_position_embeddings=32,
        partial_rotary_factor=0.5,
    )
    own = {"rope_theta": 500.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}
    assert old == read("Phi3ForCausalLM", rope_parameters={"rope_type": "longrope"} | factors | own)
    assert old.rope_scaling == {"rope_type": "longrope", "original_max_position_embeddings": 32} | factors
    assert (old.rope_theta, old.extra) == (500.0, {"partial_rotary_factor": 0.5})


def test_gpt2_and_opt_have_their_own_names_and_defaults() -> None:
    gpt2 = {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 77, "n_inner": None, "vocab_size": 100}
    raw = {"architectures": ["GPT2LMHeadModel"], **gpt2}
    config = config_of(translated(raw, "config.json"), "config.json")
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (48, 192, 3)
    assert (config.num_attention_heads, config.head_dim, config.max_position_embeddings) == (6, 8, 77)
    assert (config.hidden_act, config.tie_word_embeddings) == ("gelu_tanh", True)
    config = read("OPTForCausalLM", ffn_dim=40, activation_function="gelu")
    assert (config.intermediate_size, config.hidden_act, config.tie_word_embeddings) == (40, "gelu", True)
    assert read("OPTForCausalLM").hidden_act == "relu"


@pytest.mark.parametrize("change", [{"n_embd": None}, {"n_embd": "wide"}, {"n_layer": 0}])
def test_a_gpt2_whose_size_is_no_number_is_refused(change: dict[str, Any]) -> None:
    raw = {"architectures": ["GPT2LMHeadModel"], "vocab_size": 100, "n_embd": 48, "n_layer": 3, "n_head": 6, **change}
    with pytest.raises(ModelError, match=r"some/config\.json does not describe a"):
        config_of(translated(raw, "some/config.json"), "some/config.json")


def test_a_window_of_qwen_is_used_where_use_sliding_window_says_so() -> None:
    assert kinds_of(read("Qwen2ForCausalLM", sliding_window=9, max_window_layers=0)) == [FULL] * 4
    used = {"use_sliding_window": True, "sliding_window": 9}
    assert kinds_of(read("Qwen2ForCausalLM", **used, max_window_layers=3)) == [FULL, FULL, FULL, Window(9)]
    types = ["sliding_attention", "full_attention"] * 2
    assert kinds_of(read("Qwen3ForCausalLM", **used, layer_types=types)) == [Window(9), FULL, Window(9), FULL]


@pytest.mark.parametrize(
    ("architecture", "fields", "named"),
    [
        ("Qwen3ForCausalLM", {"layer_types": ["full_attention", "linear_attention"] * 2}, "linear_attention"),
        ("Qwen3ForCausalLM", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 9}, "layer_types"),
        ("Qwen3ForCausalLM", {"layer_types": ["sliding_attention"] * 4}, "sliding_window"),
        ("Qwen2ForCausalLM", {"sliding_window": "wide"}, "sliding_window"),
        ("MistralForCausalLM", {"layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma3ForCausalLM", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("Gemma3ForCausalLM", {"rope_local_base_freq": "low"}, "Gemma3ForCausalLM"),
        (
            "Gemma3ForCausalLM",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention",
        ),
        ("MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok"),
        ("MixtralForCausalLM", {"num_local_experts": "many"}, "num_local_experts"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(architecture: str, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        build_model(read(architecture, **fields), META)
