"""Command-line flags from declarations: an engine's from `EngineConfig`, sampling's from `SamplingParams`, and those
that only vLLM has from `octavo.vllm.keywords`."""

import argparse
import dataclasses
from functools import partial
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from octavo.config import EngineConfig
from octavo.knobs import flag, knobs
from octavo.sampling_params import SamplingParams
from octavo.server_config import ServerConfig
from octavo.vllm.engine_args import engine_knobs
from octavo.vllm.flags import add_keyword_flags, given_keywords, server_knobs
from octavo.vllm.keywords import ENGINE, LOGGING, MAPPED, PARSERS, SERVER, spelled

Config = TypeVar("Config", EngineConfig, ServerConfig)
Container = argparse.ArgumentParser | argparse._ArgumentGroup

_VLLM = {
    config: {name: each for name, each in names.items() if name not in {*knobs(EngineConfig), *knobs(ServerConfig)}}
    for config, names in ((EngineConfig, MAPPED | ENGINE), (ServerConfig, LOGGING | PARSERS | SERVER))
}
"""vLLM's keywords beside a config's knobs."""
_SHORT = {"tensor_parallel_size": ["-tp"], "quantization": ["-q"]}
"""vLLM's short flags."""

_VLLM_HELP = "vLLM's other flags are taken where they change nothing, and refused by name where they would."
_SAMPLING_HELP = {
    "n": "sequences to generate from each prompt; they share its blocks",
    "temperature": "divides the logits; 0 is greedy",
    "top_k": "keep the k most likely tokens; 0 keeps all",
    "top_p": "keep the smallest set of tokens with this probability together",
    "min_p": "keep tokens at least this likely, relative to the most likely one",
    "repetition_penalty": "above 1 discourages tokens of prompt and output",
    "max_tokens": "tokens to generate at most; as many as fit by default",
    "stop": "text that ends a sequence; may be given several times",
    "ignore_eos": "go on after the end-of-sequence token",
}


def add_config_flags(
    parser: Container, config: type[EngineConfig] | type[ServerConfig], *only: str, **own_defaults: Any
) -> None:
    """A flag for every knob of a config, or for some of them, in its groups, with its help, choices and default. Beside
    every knob there are vLLM's flags. `own_defaults` stand in place of the config's, also of knobs without a flag."""
    hints, defaults = get_type_hints(config), config()
    groups: dict[str, Any] = {}
    for name, declared in knobs(config).items():
        if only and name not in only:
            continue
        group = groups.get(declared.group) or _group(parser, declared.group)
        groups[declared.group] = group
        kind, default = _kind(hints[name]), own_defaults.get(name, getattr(defaults, name))
        if "choices" in kind:
            kind["type"] = partial(spelled, name)
        if default is True:
            kind["action"] = argparse.BooleanOptionalAction
        if declared.several:
            kind |= {"action": "extend", "nargs": "+"}
        if declared.metavar:
            kind["metavar"] = declared.metavar
        # argparse would add what is given to a default that is a list.
        default = None if isinstance(default, tuple) else default
        group.add_argument(
            flag(name), *_SHORT.get(name, ()), default=default, help=_help(declared.help, default), **kind
        )
    parser.set_defaults(**own_defaults)
    if not only:
        group = _group(parser, "vLLM's names", _VLLM_HELP) if config is EngineConfig else parser
        add_keyword_flags(group, _VLLM[config])


def read_config_flags(arguments: argparse.Namespace, config: type[Config]) -> Config:
    """The config that the flags ask for; knobs without a flag have their defaults.

    Raises:
        ConfigError: a value cannot work.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value: Any = getattr(arguments, field.name, field.default)
        values[field.name] = tuple(value or ()) if isinstance(field.default, tuple) else value
    if config is EngineConfig:
        values = engine_knobs(values | given_keywords(arguments, _VLLM[config]), flag)
    else:
        values |= server_knobs(arguments, _VLLM[config])
    return config(**values)


def add_sampling_flags(
    parser: argparse.ArgumentParser, *only: str, note: str = "--generation-config goes before these defaults."
) -> None:
    """Flags for the sampling parameters that people set by hand, or for some of them."""
    group = parser.add_argument_group("sampling", note)
    hints, defaults = get_type_hints(SamplingParams), SamplingParams()
    for name in only or _SAMPLING_HELP:
        text = _SAMPLING_HELP[name]
        default = None if name == "max_tokens" else getattr(defaults, name)
        kind = {"action": "append"} if name == "stop" else _kind(hints[name])
        names = ["-n"] if name == "n" else [flag(name)]
        group.add_argument(*names, dest=name, default=None, help=_help(text, default), **kind)


def sampling_params(arguments: argparse.Namespace) -> SamplingParams:
    """The parameters that the flags ask for; as many tokens as fit unless they bound them.

    Raises:
        RequestError: a value is out of its range.
    """
    given = {name: getattr(arguments, name) for name in given_sampling(arguments)}
    return SamplingParams(**{"max_tokens": None, **given})


def given_sampling(arguments: argparse.Namespace) -> list[str]:
    """The names of the sampling parameters that the flags set."""
    return [name for name in _SAMPLING_HELP if getattr(arguments, name, None) is not None]


def _group(container: Container, title: str, description: str | None = None) -> Container:
    """A group of a parser's flags; a group has no groups of its own."""
    if not isinstance(container, argparse.ArgumentParser):
        return container
    return container.add_argument_group(title, description)


def _kind(hint: Any) -> dict[str, Any]:
    """argparse's keywords for a type: a choice, a switch, a number or a text."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is tuple:
        return {"action": "append"}
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    return {"type": kinds[0], "metavar": {int: "N", float: "X"}.get(kinds[0], "TEXT")}


def _help(text: str, default: Any) -> str:
    text = text.replace("%", "%%")
    return text if default in (None, False, True, ()) else f"{text} (default: {str(default).replace('%', '%%')})"
