"""An engine's knobs by vLLM's keywords: what `LLM` takes, and `EngineArgs`, a script's object of them."""

import argparse
import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.vllm.keywords import ENGINE, LOGGING, MAPPED, Spelling, check_keywords, spelled

logger = logging.getLogger(__name__)

SPECULATIVE_METHODS = ("ngram", "[ngram]", "suffix")
"""vLLM's methods of speculation that guess from what the request has, too."""
SPECULATIVE_FIELDS = {
    *("num_speculative_tokens", "prompt_lookup_max", "prompt_lookup_min", "disable_by_batch_size"),
    *("suffix_decoding_max_tree_depth", "suffix_decoding_max_spec_factor", "suffix_decoding_min_token_prob"),
}
"""Fields of `speculative_config` that say how many tokens these guess, and when."""
_OWN = 'as with "method": "ngram" or "suffix"'
_CHOSEN = "how many are guessed depends on how many were right, and on what they cost"
KNOBS = tuple(field.name for field in dataclasses.fields(EngineConfig))


def engine_knobs(keywords: Mapping[str, Any], spelling: Spelling = str) -> dict[str, Any]:
    """Fields of `EngineConfig` from its own and vLLM's keywords. None is as if absent. What changes nothing is told in
    one line.

    Args:
        spelling: how messages call a keyword.

    Raises:
        ConfigError: a keyword is unknown, asks for what cannot be had, or contradicts another.
    """
    known = ENGINE | LOGGING
    if unknown := keywords.keys() - set(KNOBS) - known.keys() - MAPPED.keys():
        raise ConfigError(f"unknown keyword {', '.join(sorted(unknown))}; LLM takes {', '.join(KNOBS)}")
    given = {name: value for name, value in keywords.items() if value is not None}
    values = {name: spelled(name, value) for name, value in given.items() if name in KNOBS}
    foreign = {name: value for name, value in given.items() if name in known and name not in KNOBS}
    idle = check_keywords(foreign, known, ConfigError, spelling)
    if idle:
        logger.warning("%s: of vLLM, changing nothing here", ", ".join(map(spelling, idle)))
    for name in MAPPED.keys() & given.keys():
        _MEANINGS[name](given[name], values, spelling)
    return values


def _check_truth(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")


def _enable_prefix_caching(is_enabled: object, values: dict[str, Any], spelling: Spelling) -> None:
    name, scope = spelling("enable_prefix_caching"), values.get("prefix_cache_scope", "tenant")
    _check_truth(name, is_enabled)
    if is_enabled == (scope == "off") and "prefix_cache_scope" in values and scope != "tenant":
        raise ConfigError(f"{name} of {is_enabled} contradicts {spelling('prefix_cache_scope')} {scope!r}: give one")
    if not is_enabled:
        values["prefix_cache_scope"] = "off"


def _kv_cache_memory_bytes(size: object, values: dict[str, Any], spelling: Spelling) -> None:
    if values.get("kv_cache_memory") not in (size, None):
        raise ConfigError(f"{spelling('kv_cache_memory_bytes')} contradicts {spelling('kv_cache_memory')}: give one")
    values["kv_cache_memory"] = size


def _enforce_eager(is_eager: object, values: dict[str, Any], spelling: Spelling) -> None:
    _check_truth(spelling("enforce_eager"), is_eager)
    if is_eager:
        values["cuda_graphs"] = "off"


def _async_scheduling(is_async: object, values: dict[str, Any], spelling: Spelling) -> None:
    name, steps = spelling("async_scheduling"), spelling("steps_in_flight")
    _check_truth(name, is_async)
    if "steps_in_flight" in values and (values["steps_in_flight"] > 1) != is_async:
        raise ConfigError(f"{name} of {is_async} contradicts {steps} {values['steps_in_flight']}: give one")
    if not is_async:
        values["steps_in_flight"] = 1


def _speculative_config(asked: object, values: dict[str, Any], spelling: Spelling) -> None:
    """vLLM's `speculative_config`, a dict. How many tokens are guessed, and by how long a match, is found out here."""
    name = spelling("speculative_config")
    if not isinstance(asked, Mapping):
        raise ConfigError(f'{name} must be a dict such as {{"method": "ngram"}}, got {asked!r:.100}')
    given = {field: value for field, value in asked.items() if value is not None}
    method = given.pop("method", given.get("model"))
    if given.pop("model", method) != method or method not in SPECULATIVE_METHODS:
        raise ConfigError(
            f"{name} asks for {dict(asked)!r:.100}: tokens are guessed from the request's own alone, {_OWN}"
        )
    if unknown := given.keys() - SPECULATIVE_FIELDS:
        raise ConfigError(f"{name} has no {', '.join(sorted(unknown))} here: {_OWN}, and {_CHOSEN}")
    if given:
        logger.warning("%s: %s of vLLM, changing nothing here: %s", name, ", ".join(sorted(given)), _CHOSEN)
    values["speculate"] = "auto"


def _speculative_model(model: object, values: dict[str, Any], spelling: Spelling) -> None:
    name = spelling("speculative_model")
    if model not in SPECULATIVE_METHODS:
        raise ConfigError(f"{name} of {model!r:.100}: tokens are guessed from the request's own alone, as with [ngram]")
    values["speculate"] = "auto"


def _pooler_config(name: str, asked: object, values: dict[str, Any], spelling: Spelling) -> None:
    """vLLM's `PoolerConfig`, as a dict or as an object with such fields."""
    fields: Mapping[str, Any] = asked if isinstance(asked, Mapping) else getattr(asked, "__dict__", {"": asked})
    given = {field: value for field, value in fields.items() if value not in (None, False)}
    kind = str(given.pop("pooling_type", "")).lower()
    if given or kind not in ("", "mean", "last", "cls"):
        told = ", ".join(given) or f"pooling_type {kind!r}"
        raise ConfigError(f"{spelling(name)} asks for {told}: it takes pooling_type MEAN, LAST or CLS")
    if kind and values.setdefault("pooling", kind) != kind:
        raise ConfigError(f"{spelling(name)} contradicts {spelling('pooling')} {values['pooling']}: give one")


_MEANINGS: dict[str, Callable[[Any, dict[str, Any], Spelling], None]] = {
    "pooler_config": partial(_pooler_config, "pooler_config"),
    "override_pooler_config": partial(_pooler_config, "override_pooler_config"),
    "enforce_eager": _enforce_eager,
    "speculative_config": _speculative_config,
    "speculative_model": _speculative_model,
    "async_scheduling": _async_scheduling,
    "enable_prefix_caching": _enable_prefix_caching,
    "kv_cache_memory_bytes": _kv_cache_memory_bytes,
}

_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*ENGINE, *MAPPED, *LOGGING)),
    **{name: getattr(EngineConfig(), name) for name in KNOBS},
}
_Fields: Any = dataclasses.make_dataclass(
    "_Fields", [(name, Any, _DEFAULTS[name]) for name in dict.fromkeys((*KNOBS, *_DEFAULTS))]
)


class EngineArgs(_Fields):  # type: ignore[misc]
    """An engine's keywords as a script's object: `EngineArgs(model="smollm2", max_num_seqs=8)`. A dataclass with every
    keyword that `LLM` takes, so `LLM(**dataclasses.asdict(args))` is the model that it asks for."""

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Give a parser, or a group of one, a flag for each keyword; returns it."""
        from octavo.cli.flags import add_config_flags

        add_config_flags(parser, EngineConfig)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> "EngineArgs":
        """The keywords that the flags of `add_cli_args` gave."""
        return cls(**{name: value for name, value in vars(args).items() if name in _DEFAULTS})


class AsyncEngineArgs(EngineArgs):
    """The same, for `AsyncLLM`."""
