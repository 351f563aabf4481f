"""What a prompt is, and reading one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from octavo.errors import RequestError
from octavo.tokenization.tokenizer import Tokenizer


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str
    cache_salt: NotRequired[str]
    """Computed prefixes are shared between prompts with the same one only."""


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]
    """Its text, for the output to tell."""
    cache_salt: NotRequired[str]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt | Mapping[str, Any]
"""A text, token ids, or a dict of the one or the other."""
PromptType = Prompt

_KEYS = tuple(TokensPrompt.__annotations__)


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt as the engine takes it."""

    text: str | None
    """Where it was given."""
    token_ids: list[int]
    cache_salt: str | None


def read_prompt(prompt: object, tokenizer: Tokenizer, most: int | None = None) -> ReadPrompt:
    """Check a prompt, and tokenize it where it is a text.

    Args:
        most: tokens of its end that are kept, and with a text those around it.

    Raises:
        RequestError: it is none, or asks for what is not served, as images in `multi_modal_data`.
    """
    given: Mapping[str, Any] = prompt if isinstance(prompt, Mapping) else {_key_of(prompt): prompt}
    given = {key: value for key, value in given.items() if value is not None}
    if unknown := [str(key) for key in given if key not in _KEYS]:
        raise RequestError(f"a prompt's {', '.join(unknown)} is not served; it has {', '.join(_KEYS)}")
    text, salt = given.get("prompt"), given.get("cache_salt")
    if text is not None and not isinstance(text, str):
        raise RequestError(f"a prompt must be a text, got {type(text).__name__}")
    if salt is not None and not (isinstance(salt, str) and salt):
        raise RequestError(f"cache_salt must be a text that is not empty, got {salt!r}")
    if "prompt_token_ids" in given:
        token_ids = _token_ids(given["prompt_token_ids"])
        return ReadPrompt(text, token_ids if most is None else token_ids[-most:], salt)
    if text is None:
        raise RequestError(f'a prompt given as a dict needs "prompt" or "prompt_token_ids", got {sorted(given)}')
    return ReadPrompt(text, tokenizer.encode(text) if most is None else tokenizer.encode_within(text, most), salt)


def as_list(prompts: object) -> Sequence[Prompt]:
    """One prompt, a flat list of token ids included, becomes a list of one.

    Raises:
        RequestError: these are no prompts.
    """
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, list | tuple):
        raise RequestError(f"prompts must be a prompt or a list of prompts, got {type(prompts).__name__}")
    if prompts and all(isinstance(each, int) for each in prompts):
        return [prompts]
    return prompts


def _key_of(prompt: object) -> str:
    return "prompt" if isinstance(prompt, str) else "prompt_token_ids"


def _token_ids(prompt: object) -> list[int]:
    if not isinstance(prompt, list | tuple) or not all(type(token) is int for token in prompt):
        raise RequestError(f"a prompt is a text, a list of token ids or a dict, got {type(prompt).__name__}")
    return list(prompt)
