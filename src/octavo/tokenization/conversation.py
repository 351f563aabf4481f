"""What a chat is asked with, and its messages in the shape that chat templates are written for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from octavo.errors import RequestError

RESERVED_VARIABLES = ("self", "messages", "add_generation_prompt", "continue_final_message", "chat_template")
"""Template variables that are set from elsewhere."""
ContentForm = Literal["text", "parts", "part"]
"""`part` is a list of which only the first part is shown."""
ROLE = re.compile(r"[\w.-]{1,64}")
TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Where each kind of part has its text."""
_ROLES_WITHOUT_TEXT = ("assistant", "tool", "function")
"""Their turns may have no content: a call of a tool, and a tool that says nothing."""
_UNSUPPORTED = {"function_call": "send tool_calls", "audio": "send its transcript as content"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, and how a template makes a prompt of them.

    Args:
        messages: `{"role": ..., "content": ...}` and whatever else the template knows. `content` is a text, a list of
            `{"type": "text", "text": ...}` parts, or, for the turns of assistants and tools, None or absent.
        add_generation_prompt: end with the opening of the model's answer.
        continue_final_message: end with the last message's text, open, so that the model goes on with it.
        chat_template: Jinja source in place of the model's own.
        variables: further template variables, such as `tools`.

    Raises:
        RequestError: two of them do not go together, or a variable is one that is set from elsewhere.
    """

    messages: Any
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other: a prompt ends with the last "
                "message's text, or with the opening of the next one"
            )
        for name in RESERVED_VARIABLES:
            if name in self.variables:
                raise RequestError(f"chat_template_kwargs must not set {name}")


class Forms(Protocol):
    """In which form a template takes what messages hold."""

    def of_content(self, role: str) -> frozenset[ContentForm]:
        """The forms of content that it takes in this role's messages; one at least."""
        ...

    def takes_mapping(self) -> bool:
        """Whether the arguments of tool calls are a mapping for it; else they are JSON text."""
        ...


def template_messages(messages: object, forms: Forms) -> list[dict[str, Any]]:
    """Messages as a template expects them.

    Fields that are null, and empty lists of calls, are left out, as clients send back all fields of an answer.

    Raises:
        RequestError: the messages are malformed; the message names the place of the first fault.
    """
    if not isinstance(messages, list | tuple):
        raise RequestError(f"messages must be a list, got {type(messages).__name__}")
    if not messages:
        raise RequestError("messages must not be empty")
    return [_message(f"messages[{index}]", message, forms) for index, message in enumerate(messages)]


def _message(name: str, message: object, forms: Forms) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(f"{name} must be an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        shown = repr(role[:80] if isinstance(role, str) else role)
        raise RequestError(f"{name}.role must be a text such as 'user', got {shown}; it has letters, digits, _ . and -")
    for key, remedy in _UNSUPPORTED.items():
        if message.get(key) is not None:
            raise RequestError(f"{name}.{key} is not supported: {remedy}")
    given = {key: value for key, value in message.items() if value is not None and (value or key != "tool_calls")}
    content = given.pop("content", None)
    if content is None:
        content = given.pop("refusal", None)
    if content is None and role in _ROLES_WITHOUT_TEXT:
        content = ""
    given["content"] = _content(f"{name}.content", content, forms.of_content(role), role in _ROLES_WITHOUT_TEXT)
    if "tool_calls" in given:
        given["tool_calls"] = _tool_calls(f"{name}.tool_calls", given["tool_calls"], forms.takes_mapping())
    return given


def _content(name: str, content: object, forms: frozenset[ContentForm], may_lack: bool) -> str | list[dict[str, str]]:
    """In the form that it was given in, if the template takes it. Where a turn may lack content, an empty text is no
    part; elsewhere it is one, for templates that take the first."""
    if isinstance(content, str):
        return content if "text" in forms else [] if may_lack and not content else [_text_part(content)]
    if not isinstance(content, list | tuple):
        raise RequestError(f"{name} must be a text or a list of text parts, got {type(content).__name__}")
    texts = [_text_of_part(f"{name}[{index}]", part) for index, part in enumerate(content)]
    if "parts" in forms:
        return [_text_part(text) for text in texts]
    joined = "\n".join(texts)
    return joined if "text" in forms else [_text_part(joined)]


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _text_of_part(name: str, part: object) -> str:
    if not isinstance(part, Mapping):
        raise RequestError(f'{name} must be {{"type": "text", "text": ...}}, got {type(part).__name__}')
    kind = part.get("type")
    key = TEXT_KEYS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise RequestError(f"{name}.type is {str(kind)[:80]!r}; this engine takes only 'text' parts")
    text = part.get(key)
    if not isinstance(text, str):
        raise RequestError(f"{name}.{key} must be a text, got {type(text).__name__}")
    return text


def _tool_calls(name: str, calls: object, as_mapping: bool) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise RequestError(f"{name} must be a list, got {type(calls).__name__}")
    return [_tool_call(f"{name}[{index}]", call, as_mapping) for index, call in enumerate(calls)]


def _tool_call(name: str, call: object, as_mapping: bool) -> dict[str, Any]:
    """The name and the arguments are under `function`, as OpenAI has them, or in the call itself."""
    if not isinstance(call, Mapping):
        raise RequestError(f"{name} must be an object with a function, got {type(call).__name__}")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f'{name}.function must be an object such as {{"name": "...", "arguments": "{{}}"}}')
    written = {**function, "arguments": _arguments(function.get("arguments"), as_mapping)}
    return {**call, "function": written} if "function" in call else written


def _arguments(arguments: object, as_mapping: bool) -> object:
    """As a template takes them. Text that is no JSON stays text; none is no argument."""
    if arguments in (None, ""):
        arguments = {}
    if as_mapping and isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    return arguments if as_mapping or isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
