"""Names that other servers have for fields of this one: such a field is carried out under its own name here, where it
means exactly the same."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from octavo.server.errors import ApiError
from octavo.server.openai.foreign_fields import unsupported

Fields = dict[str, Any]
"""A body's fields, or some of them."""

MOST = 2**31 - 1
"""Tokens: as many as fit."""


class Alias(NamedTuple):
    """Another server's field."""

    field: str
    """What it is here, as /openapi.json tells."""
    read: Callable[[Any, Mapping[str, Any]], Fields | None]
    """From its value, and the whole body, to fields of this server. Without any it asks for nothing; None is a value
    that means nothing here."""
    instead: str = ""
    """What to do where `read` gives None."""


def _same(field: str, default: int | None = None) -> Alias:
    """The same under another name; its default there asks for nothing."""
    return Alias(field, lambda value, _: {} if default is not None and value == default else {field: value})


def _max_tokens(value: Any, _: Mapping[str, Any]) -> Fields:
    """A negative number is no limit, in llama.cpp and Ollama."""
    return {"max_tokens": MOST if _is_number(value) and value < 0 else value}


def _list_of_stops(value: Any, _: Mapping[str, Any]) -> Fields | None:
    if not isinstance(value, list):
        return None
    return {"stop": value} if value else {}


def _banned(value: Any, _: Mapping[str, Any]) -> Fields | None:
    """Each token by itself: in a list, or in a text with commas."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")] if value else []
        if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            return None
        value = [int(part) for part in parts]
    if not isinstance(value, list):
        return None
    return {"bad_words_ids": [[token] for token in value]} if value else {}


def _temperature(value: Any, _: Mapping[str, Any]) -> Fields | None:
    return {True: {}, False: {"temperature": 0}}.get(value) if isinstance(value, bool) else None


def _beams(value: Any, _: Mapping[str, Any]) -> Fields | None:
    if not _is_number(value):
        return None
    return {"use_beam_search": True, "best_of": value} if value > 1 else {}


def _repetition_penalty(value: Any, content: Mapping[str, Any]) -> Fields | None:
    """llama.cpp's looks at the last 64 tokens, unless it is told to look at all."""
    if value == 1:
        return {}
    return {"repetition_penalty": value} if content.get("repeat_last_n") == -1 else None


def _text_logprobs(value: Any, _: Mapping[str, Any]) -> Fields:
    return {} if value == 0 else {"logprobs": value}


def _chat_logprobs(value: Any, _: Mapping[str, Any]) -> Fields:
    return {} if value == 0 else {"logprobs": True, "top_logprobs": value}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        **dict.fromkeys(("max_new_tokens", "n_predict", "num_predict"), Alias("max_tokens", _max_tokens)),
        **dict.fromkeys(
            ("stop_sequences", "stop_words", "stopping_strings", "custom_stopping_strings"),
            Alias("stop", _list_of_stops, "send stop"),
        ),
        **dict.fromkeys(
            ("suppress_tokens", "banned_tokens", "custom_token_bans"),
            Alias("bad_words_ids", _banned, "send bad_words_ids"),
        ),
        "do_sample": Alias("temperature", _temperature, "send temperature 0"),
        "min_new_tokens": _same("min_tokens", 0),
        "n_cmpl": _same("n", 1),
        "no_stop_trim": _same("include_stop_str_in_output"),
        "num_beams": Alias("use_beam_search, best_of", _beams, "send use_beam_search with n"),
        "num_return_sequences": _same("n", 1),
        "random_seed": _same("seed"),
        "repeat_penalty": Alias(
            "repetition_penalty",
            _repetition_penalty,
            "send repetition_penalty, which looks at all tokens, or repeat_last_n -1 with it",
        ),
        "return_tokens": _same("return_token_ids"),
        "sampling_seed": _same("seed"),
        "truncate": _same("truncate_prompt_tokens"),
    }
)
"""Of every endpoint that generates."""
TEXT_ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        **ALIASES,
        **dict.fromkeys(("n_probs", "top_n_tokens"), Alias("logprobs", _text_logprobs)),
        "max_completion_tokens": _same("max_tokens"),
        "return_full_text": _same("echo"),
    }
)
"""Of completions."""
CHAT_ALIASES: Mapping[str, Alias] = MappingProxyType(
    {**ALIASES, **dict.fromkeys(("n_probs", "top_n_tokens"), Alias("logprobs, top_logprobs", _chat_logprobs))}
)
"""Of chat completions."""


def own_fields(content: Fields, aliases: Mapping[str, Alias]) -> Fields:
    """A body's fields under the names of this server.

    Raises:
        ApiError: a field has two values, or one that means nothing here; the message names it.
    """
    content = _with_extra_body(content) if aliases and content.get("extra_body") is not None else content
    if content.keys().isdisjoint(aliases):
        return content
    own = {name: value for name, value in content.items() if name not in aliases}
    source_of: dict[str, str] = {}
    for name in content:
        if name not in aliases or content[name] is None:
            continue
        meant = aliases[name].read(content[name], content)
        if meant is None:
            raise unsupported(name, aliases[name].instead)
        for field, value in meant.items():
            if own.get(field) not in (None, []) and own[field] != value:
                raise _contradiction(name, source_of.get(field, field))
            own[field], source_of[field] = value, name
    return own


def _with_extra_body(content: Fields) -> Fields:
    """What OpenAI's client does with its argument of this name: its fields stand beside the others."""
    extra, others = content["extra_body"], {name: value for name, value in content.items() if name != "extra_body"}
    if not isinstance(extra, dict):
        raise unsupported("extra_body", "send the fields in it beside the others")
    for name in extra.keys() & others.keys():
        if extra[name] != others[name]:
            raise _contradiction(f"extra_body.{name}", name)
    return others | extra


def _contradiction(name: str, other: str) -> ApiError:
    return ApiError(400, f"{name} and {other} say different things: send one of them", param=name)
