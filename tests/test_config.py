"""Knobs: sizes, ranges, and flags that derive from them."""

import argparse
import dataclasses
import re
from typing import get_args, get_type_hints

import pytest

from octavo.cli.flags import add_config_flags, add_sampling_flags, read_config_flags, sampling_params
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.knobs import Size, flag, knobs, parse_size
from octavo.server_config import ServerConfig


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("48MiB", 48 * 2**20),
        ("2GiB", 2 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5 gib", 3 * 2**29),
        ("4096", 4096),
        (4096, 4096),
        ("40%", 400),
        ("2.5 %", 25),
    ],
)
def test_sizes_are_read_as_people_write_them(text, num_bytes):
    assert parse_size(text, 1000, "--x") == num_bytes


@pytest.mark.parametrize("text", ["", "lots", "-1GiB", "0", "0%", "101%", "1 GiB more", "GiB", "1XB", "nan", "1e9"])
def test_what_is_not_a_size_is_refused_with_the_flag(text):
    with pytest.raises(ConfigError, match="--x"):
        parse_size(text, 1000, "--x")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    add_config_flags(parser, EngineConfig)
    return parser.parse_args(arguments)


def test_every_knob_has_a_flag_and_the_defaults_agree():
    assert read_config_flags(parse([]), EngineConfig) == EngineConfig()
    for field in dataclasses.fields(EngineConfig):
        assert knobs(EngineConfig)[field.name].help
        choices = [choice for choice in get_args(get_type_hints(EngineConfig)[field.name]) if isinstance(choice, str)]
        is_switch = isinstance(field.default, bool)
        largest = knobs(EngineConfig)[field.name].at_most
        given = "True" if is_switch else choices[-1] if choices else "7" if largest is None or largest > 7 else "2"
        if get_type_hints(EngineConfig)[field.name] in (Size, Size | None):
            given = "7MiB"
        if largest == 1:
            given = "0.5"
        arguments = [flag(field.name)] if is_switch else [flag(field.name), given]
        if field.name == "max_num_seqs":
            arguments += ["--max-num-batched-tokens", "9"]
        if field.name == "max_num_batched_tokens":
            arguments += ["--max-num-seqs", "5"]
        value = getattr(read_config_flags(parse(arguments), EngineConfig), field.name)
        assert value == ((given,) if isinstance(field.default, tuple) else type(value)(given))


@pytest.mark.parametrize(
    ("name", "value"), [("quantization", "int3"), ("kv_cache_dtype", "float8"), ("kernels", "gpu"), ("dtype", "int8")]
)
def test_an_unknown_choice_is_refused_with_the_flag_and_the_known_ones(name, value):
    with pytest.raises(ConfigError, match=rf"{flag(name)} is '{value}'; it is one of .*, "):
        EngineConfig(**{name: value})


@pytest.mark.parametrize(
    ("config", "knob", "value", "words"),
    [
        (EngineConfig, "block_size", 0, "--block-size must be a whole number of at least 1, got 0"),
        (EngineConfig, "max_num_seqs", 2.5, "--max-num-seqs must be a whole number of at least 1, got 2.5"),
        (EngineConfig, "num_threads", True, "--num-threads must be a whole number of at least 1, got True"),
        (EngineConfig, "num_threads", 1025, "--num-threads must be at most 1024, got 1025"),
        (EngineConfig, "tensor_parallel_size", 65, "--tensor-parallel-size must be at most 64, got 65"),
        (EngineConfig, "seed", -1, "--seed must be a whole number of at least 0, got -1"),
        (EngineConfig, "model", None, "--model must be a text, got None"),
        (EngineConfig, "swap_space", -1, "--swap-space is -1, which is not a size"),
        (EngineConfig, "pin_prefix", ("",), "--pin-prefix must be a list of file names, got ('',)"),
        (ServerConfig, "port", 65536, "--port must be 0 to 65535, got 65536"),
        (ServerConfig, "max_stop_strings", -1, "--max-stop-strings must be a whole number of at least 0, got -1"),
        (ServerConfig, "drain_timeout", float("nan"), "--drain-timeout must be a number of seconds of at least 0"),
        (ServerConfig, "step_timeout", float("inf"), "--step-timeout must be a number of seconds of at least 0"),
        (
            ServerConfig,
            "tool_parser",
            "klingon",
            "--tool-parser is 'klingon'; it is auto or one of harmony, qwen3_coder",
        ),
        (ServerConfig, "api_key", ("",), "--api-key must not be empty"),
    ],
)
def test_a_value_out_of_a_knobs_bounds_is_refused_with_its_flag(config, knob, value, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        config(**{knob: value})


def test_a_knob_without_a_value_has_no_bounds():
    assert EngineConfig(num_threads=None, max_model_len=None, revision=None) == EngineConfig()


def test_pins_given_as_one_text_are_refused():
    with pytest.raises(ConfigError, match="--pin-prefix"):
        EngineConfig(pin_prefix="system.txt")  # type: ignore[arg-type]


def test_sampling_flags_make_sampling_params():
    params = sampling_params(parse(["-n", "3", "--temperature", "0.5", "--stop", "a", "--stop", "b", "--ignore-eos"]))
    assert (params.n, params.temperature, params.stop, params.ignore_eos) == (3, 0.5, ["a", "b"], True)


def test_a_command_generates_as_many_tokens_as_fit_unless_told_otherwise():
    assert sampling_params(parse([])).max_tokens is None
    assert sampling_params(parse(["--max-tokens", "7"])).max_tokens == 7
