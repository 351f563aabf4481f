"""Turning a conversation into a prompt with the model's Jinja template: somebody else's code, run in a sandbox."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.errors import RequestError

REMEDY = "--chat-template gives another"


class ChatTemplate:
    """A compiled template, with what templates written for Hugging Face's `apply_chat_template` expect to find.

    Args:
        source: Jinja text.
        special_tokens: variables such as `bos_token` and `eos_token`.

    Raises:
        RequestError: the source is not a Jinja template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = special_tokens
        try:
            self._template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise RequestError(f"the chat template is not valid Jinja: {error}; {REMEDY}") from error

    def render(self, messages: object, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt for a list of messages: `{"role": ..., "content": ...}` and whatever else the template knows.

        Args:
            messages: `content` is a text, or a list of `{"type": "text", "text": ...}` parts that are joined with
                line breaks, or None beside `tool_calls`.
            add_generation_prompt: end with the opening of the model's answer.
            variables: further template variables, such as `tools`.

        Raises:
            RequestError: the messages are not such a list, or the template refuses them or fails.
        """
        conversation = _checked_messages(messages)
        known = {"tools": None, "documents": None, **self._special_tokens, **variables}
        try:
            return self._template.render(known, messages=conversation, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # a template may fail in any way that code can
            cause = str(error) or type(error).__name__
            raise RequestError(f"the chat template cannot render these messages: {cause}; {REMEDY}") from error


def _checked_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list | tuple):
        raise RequestError(f"messages must be a list, got {type(messages).__name__}")
    if not messages:
        raise RequestError("messages must not be empty")
    return [_checked_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _checked_message(name: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{name} must be an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{name}.role must be a text such as 'user', got {role!r}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return dict(message)
    return {**message, "content": _text_of(f"{name}.content", content)}


def _text_of(name: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "\n".join(_text_of_part(f"{name}[{index}]", part) for index, part in enumerate(content))
    raise RequestError(f"{name} must be a text or a list of text parts, got {type(content).__name__}")


def _text_of_part(name: str, part: object) -> str:
    if not isinstance(part, Mapping):
        raise RequestError(f'{name} must be {{"type": "text", "text": ...}}, got {type(part).__name__}')
    if part.get("type") != "text":
        raise RequestError(f"{name}.type is {part.get('type')!r}; this engine takes only 'text' parts")
    text = part.get("text")
    if not isinstance(text, str):
        raise RequestError(f"{name}.text must be a text, got {type(text).__name__}")
    return text


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, but touching what is forbidden fails at once, where by default it reads as empty text."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is not allowed")


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's own words for training; a prompt just has what is inside."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment() -> Environment:
    extensions = ["jinja2.ext.loopcontrols", _GenerationBlock]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which a prompt is not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
