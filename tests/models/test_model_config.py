"""A config.json is read in the spellings of transformers 4 and 5, and what is wrong with it is named."""

from typing import Any

import pytest
import torch

from octavo.errors import ModelError
from octavo.execution.sizing import weight_bytes
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.config import parse_config

MINIMAL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def test_absent_fields_follow_from_the_others_or_have_llamas_defaults() -> None:
    config = parse_config(MINIMAL, "config.json")
    assert (config.num_key_value_heads, config.head_dim) == (4, 16)
    assert (config.rope_theta, config.rope_scaling, config.tie_word_embeddings) == (10000.0, None, False)
    assert config.extra == {}


def test_both_spellings_of_rotary_embedding_and_dtype_mean_the_same() -> None:
    old = {
        "rope_theta": 500.0,
        "rope_scaling": {"rope_type": "llama3", **SCALING},
        "torch_dtype": "float16",
    }
    older = {**old, "rope_scaling": {"type": "llama3", **SCALING}}
    new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **SCALING}, "dtype": "float16"}
    configs = [parse_config(MINIMAL | spelling, "config.json") for spelling in (old, older, new)]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].rope_theta == 500.0
    assert configs[0].rope_scaling == {"rope_type": "llama3", **SCALING}
    assert configs[0].checkpoint_dtype == torch.float16


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_default_rope_is_no_scaling(name: str) -> None:
    assert parse_config({**MINIMAL, name: {"rope_type": "default"}}, "config.json").rope_scaling is None


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def test_all_spellings_of_yarn_mean_the_same() -> None:
    spellings: list[dict[str, Any]] = [
        {"max_position_embeddings": 32, "rope_scaling": {"type": "yarn", **YARN}},
        {"max_position_embeddings": 32, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"max_position_embeddings": 128, "rope_scaling": YARN},
        {"max_position_embeddings": 128, "rope_parameters": {**YARN, "factor": None}},
        {"max_position_embeddings": 32, "rope_parameters": {**YARN, "rope_theta": 10000.0}},
        {
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 32,
            "rope_parameters": {**YARN, "original_max_position_embeddings": 128},
        },
    ]
    for spelling in spellings:
        config = parse_config(MINIMAL | spelling, "config.json")
        assert config.max_position_embeddings == 128, spelling
        assert config.rope_scaling == YARN, spelling


@pytest.mark.parametrize("factor", [0, -4.0, "four", [4.0], float("nan"), 10**400, 2.0**60])
@pytest.mark.parametrize("name", ["factor", "original_max_position_embeddings"])
def test_a_yarn_that_reaches_no_length_is_named(name: str, factor: object) -> None:
    with pytest.raises(ModelError, match=r"some/config\.json: YaRN's factor .* must be a length of 1 to"):
        parse_config({**MINIMAL, "rope_scaling": {**YARN, name: factor}}, "some/config.json")


def test_end_of_sequence_ids_of_both_files_are_joined_without_repeats() -> None:
    config = parse_config({**MINIMAL, "eos_token_id": 7}, "config.json", {"eos_token_id": [9, 7, 8]})
    assert config.eos_token_ids == (7, 9, 8)
    assert parse_config({**MINIMAL, "eos_token_id": [3, 4]}, "config.json").eos_token_ids == (3, 4)
    assert parse_config(MINIMAL, "config.json", {"eos_token_id": 5}).eos_token_ids == (5,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"architectures": []}, "architectures"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": "high"}}, "rope_theta"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
        ({"rope_theta": 10**400}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [10**19]}, "eos_token_id"),
    ],
)
def test_an_unusable_field_is_named_with_its_file(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named) as error:
        parse_config(MINIMAL | change, "some/config.json")
    assert "some/config.json" in str(error.value)


@pytest.mark.parametrize("size", [2**31, 10**19, 10**400])
@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ],
)
def test_a_size_that_no_model_has_is_named(name: str, size: int) -> None:
    with pytest.raises(ModelError, match=rf"config\.json does not describe a model: .*{name}"):
        parse_config({**MINIMAL, name: size}, "config.json")


def test_the_largest_sizes_can_still_be_counted() -> None:
    widths = ("vocab_size", "hidden_size", "intermediate_size")
    heads = ("num_attention_heads", "num_key_value_heads", "head_dim")
    sizes = dict.fromkeys(widths, 2**24) | dict.fromkeys(heads, 2**16) | {"max_position_embeddings": 2**27}
    config = parse_config({**MINIMAL, **sizes}, "config.json")
    build = ModelBuild(torch.float64, torch.device("meta"), ReferenceKernels())
    assert weight_bytes(config, build) > 2**60


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ModelError, match="intermediate_size"):
        parse_config({name: value for name, value in MINIMAL.items() if name != "intermediate_size"}, "config.json")
