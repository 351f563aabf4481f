"""A model is run as its config asks, or refused: never run as something else."""

from typing import Any

import pytest
import torch

from octavo.errors import ModelError
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.config import parse_config
from octavo.models.registry import build_model, check_supported, config_of, known_architectures, translated

MINIMAL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
META = ModelBuild(torch.float32, torch.device("meta"), ReferenceKernels())


def test_an_unknown_architecture_is_refused_and_the_known_ones_are_listed() -> None:
    config = parse_config({**MINIMAL, "architectures": ["ZebraForCausalLM"]}, "config.json")
    with pytest.raises(ModelError) as error:
        check_supported(config)
    assert "ZebraForCausalLM" in str(error.value)
    assert all(name in str(error.value) for name in known_architectures())
    assert "LlamaForCausalLM" in known_architectures()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sliding_window", 4096),
        ("attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", 30.0),
        ("partial_rotary_factor", 0.5),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("num_local_experts", 8),
        ("layer_types", ["full_attention", "sliding_attention"]),
    ],
)
def test_a_field_that_asks_for_what_is_not_computed_is_refused_by_name(name: str, value: Any) -> None:
    config = parse_config({**MINIMAL, name: value}, "config.json")
    asked = "partial_rotary_factor" if name == "rope_parameters" else name
    with pytest.raises(ModelError, match=asked):
        check_supported(config)
    with pytest.raises(ModelError, match=asked):
        build_model(config, META)


def test_fields_at_their_ordinary_values_are_accepted() -> None:
    ordinary = {
        "hidden_act": "silu",
        "sliding_window": None,
        "partial_rotary_factor": 1.0,
        "quantization_config": None,
        "layer_types": ["full_attention", "full_attention"],
    }
    check_supported(parse_config(MINIMAL | ordinary, "config.json"))
    check_supported(parse_config({**MINIMAL, "sliding_window": 4096, "use_sliding_window": False}, "config.json"))


def test_an_unknown_activation_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(ModelError, match=r"hidden_act 'snake'.*silu.*gelu_pytorch_tanh"):
        parse_config({**MINIMAL, "hidden_act": "snake"}, "config.json")


def test_what_an_architecture_understands_is_kept_and_all_else_ordinary_is_not() -> None:
    fields = {**MINIMAL, "sliding_window": 0, "partial_rotary_factor": 1.0, "resid_pdrop": 0.1, "n_inner": None}
    assert parse_config(fields, "config.json").extra == {}
    understands = {"sliding_window": int, "n_inner": int, "resid_pdrop": float}
    assert parse_config(fields, "config.json", None, understands).extra == {"sliding_window": 0, "resid_pdrop": 0.1}


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("Phi3ForCausalLM", {"sliding_window": "long"}),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 1.5}),
        ("OPTForCausalLM", {"word_embed_proj_dim": -1}),
        ("OPTForCausalLM", {"enable_bias": "yes"}),
        ("GPT2LMHeadModel", {"layer_norm_epsilon": [1]}),
        ("MixtralForCausalLM", {"num_local_experts": 0}),
    ],
)
def test_what_an_architecture_understands_is_refused_by_name_where_it_is_of_a_wrong_type(
    architecture: str, change: dict[str, Any]
) -> None:
    fields = translated({**MINIMAL, "architectures": [architecture], **change}, "some/config.json")
    with pytest.raises(ModelError, match=rf"some/config.json: {next(iter(change))}"):
        config_of(fields, "some/config.json")


def test_a_head_that_is_rotated_by_half_a_pair_is_refused() -> None:
    fields = {**MINIMAL, "architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.33}
    with pytest.raises(ModelError, match=r"partial_rotary_factor=0.33.*16 dimensions.*5"):
        build_model(config_of(fields, "config.json"), META)


@pytest.mark.parametrize("named", [{}, {"architectures": []}, {"architectures": "LlamaForCausalLM"}])
def test_a_config_that_names_no_architecture_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"some/config.json.*architectures"):
        translated(named, "some/config.json")


def test_an_unknown_kind_of_rope_scaling_is_refused_and_the_known_ones_are_listed() -> None:
    config = parse_config({**MINIMAL, "rope_scaling": {"rope_type": "martian", "factor": 4.0}}, "config.json")
    with pytest.raises(ModelError, match=r"martian.*default, linear, llama3"):
        build_model(config, META)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear"}, {"rope_type": "llama3", "factor": 8.0}])
def test_a_rope_scaling_without_its_fields_is_refused(scaling: dict[str, Any]) -> None:
    config = parse_config({**MINIMAL, "rope_scaling": scaling}, "config.json")
    with pytest.raises(ModelError, match="rope scaling"):
        build_model(config, META)
