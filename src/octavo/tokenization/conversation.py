"""What a chat is asked with: messages as clients send them, checked and brought into one complete form."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from octavo.errors import RequestError

RESERVED_VARIABLES = ("self", "messages", "add_generation_prompt", "continue_final_message", "chat_template")
"""Template variables that are set from elsewhere."""
ROLE = re.compile(r"[\w.-]{1,64}")
TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Where each kind of part has its text."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Under which names clients send what an assistant has thought, and templates read it."""
ROLES_WITHOUT_TEXT = ("assistant", "tool")
"""Their turns may have no content: a call of a tool, and a tool that says nothing."""

_NOTHING_IF_EMPTY = ("tool_calls", *REASONING_KEYS)

Message = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, and how a template makes a prompt of them.

    Args:
        messages: `{"role": ..., "content": ...}` and whatever else the template knows. `content` is a text, a list of
            `{"type": "text", "text": ...}` parts, or, for the turns of assistants and tools, None or absent.
            Assistants' turns may have `tool_calls` and `reasoning_content`.
        add_generation_prompt: end with the opening of the model's answer.
        continue_final_message: end with the last message's text, open, so that the model goes on with it.
        chat_template: Jinja source in place of the model's own.
        variables: further template variables. `tools`, in OpenAI's form, reach the model by any template.

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


def checked_messages(messages: object) -> list[Message]:
    """Messages with all that templates may look for.

    Fields that are null, and empty lists of calls, are left out, as clients send back all fields of an answer. Content
    is a text, or a list of text parts. OpenAI's older `function_call` and role `function` are calls and turns of tools.
    Calls have ids; turns of tools have the id and the name of the call that they answer, as far as it can be told;
    reasoning is there under every name.

    Raises:
        RequestError: the messages are malformed; the message names the place of the first fault.
    """
    if not isinstance(messages, list | tuple):
        raise RequestError(f"messages must be a list, got {type(messages).__name__}")
    if not messages:
        raise RequestError("messages must not be empty")
    checked = [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]
    _join_tools_to_calls(checked)
    return checked


def checked_tools(tools: object) -> list[Message]:
    """Tools as a template, or a system message, shows them.

    Raises:
        RequestError: they are malformed; the message names the place of the first fault.
    """
    if not isinstance(tools, list | tuple):
        raise RequestError(f"tools must be a list, got {type(tools).__name__}")
    for index, tool in enumerate(tools):
        function = function_of(tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            example = '{"type": "function", "function": {"name": "...", "parameters": {...}}}'
            raise RequestError(f"tools[{index}] must be an object such as {example}")
    return [dict(tool) for tool in tools]


def function_of(call: Mapping[str, Any]) -> Any:
    """Where the name of a tool, or of a call, is: under `function`, as OpenAI has it, or in itself."""
    return call.get("function", call)


def text_of(message: Message) -> str:
    """What a message says."""
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def joined(first: str, second: str, between: str = "\n\n") -> str:
    """Two texts as one."""
    return f"{first}{between}{second}" if first and second else first or second


def _message(name: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise RequestError(f"{name} must be an object with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        shown = repr(role[:80] if isinstance(role, str) else role)
        raise RequestError(f"{name}.role must be a text such as 'user', got {shown}; it has letters, digits, _ . and -")
    if message.get("audio") is not None:
        raise RequestError(f"{name}.audio is not supported: send its transcript as content")
    given = {
        key: value for key, value in message.items() if value or (value is not None and key not in _NOTHING_IF_EMPTY)
    }
    if role == "function":
        given["role"] = role = "tool"
    content = given.pop("content", None)
    if content is None:
        content = given.pop("refusal", None)
    if content is None and role in ROLES_WITHOUT_TEXT:
        content = ""
    given["content"] = _content(f"{name}.content", content)
    if (old := given.pop("function_call", None)) is not None:
        given.setdefault("tool_calls", [_old_call(f"{name}.function_call", old)])
    if "tool_calls" in given:
        given["tool_calls"] = _tool_calls(f"{name}.tool_calls", given["tool_calls"])
    if role == "assistant":
        given |= _reasoning(name, given)
    return given


def _content(name: str, content: object) -> str | list[Message]:
    if isinstance(content, str):
        return content
    if content is None:
        raise RequestError(f"{name} is missing: send a text or a list of text parts")
    if not isinstance(content, list | tuple):
        raise RequestError(f"{name} must be a text or a list of text parts, got {type(content).__name__}")
    return [{"type": "text", "text": _text_of_part(f"{name}[{index}]", part)} for index, part in enumerate(content)]


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


def _reasoning(name: str, message: Message) -> Message:
    """What an assistant has thought, under each of the names."""
    given = [key for key in REASONING_KEYS if key in message]
    for key in given:
        if not isinstance(message[key], str):
            raise RequestError(f"{name}.{key} must be a text, got {type(message[key]).__name__}")
    return dict.fromkeys(REASONING_KEYS, message[given[0]]) if given else {}


def _old_call(name: str, function: object) -> Message:
    if not isinstance(function, Mapping):
        raise RequestError(f"{name} must be an object with name and arguments, got {type(function).__name__}")
    return {"function": function}


def _tool_calls(name: str, calls: object) -> list[Message]:
    if not isinstance(calls, list | tuple):
        raise RequestError(f"{name} must be a list, got {type(calls).__name__}")
    return [_tool_call(f"{name}[{index}]", call) for index, call in enumerate(calls)]


def _tool_call(name: str, call: object) -> Message:
    """In OpenAI's form; the name and the arguments may be in the call itself, as older templates have them."""
    if not isinstance(call, Mapping):
        raise RequestError(f"{name} must be an object with a function, got {type(call).__name__}")
    function = function_of(call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f'{name}.function must be an object such as {{"name": "...", "arguments": "{{}}"}}')
    if not isinstance(call.get("id"), str | None):
        raise RequestError(f"{name}.id must be a text, got {type(call['id']).__name__}")
    arguments = function.get("arguments")
    written = {**function, "arguments": {} if arguments in (None, "") else arguments}
    if function is call:
        written = {key: written[key] for key in ("name", "arguments")}
        call = {key: call[key] for key in ("id", "type") if key in call}
    return {"type": "function", **call, "function": written}


def with_arguments(messages: Iterable[Message], as_mapping: bool) -> list[Message]:
    """Messages whose calls have arguments as a mapping, or as JSON text. Text that is no JSON stays text."""

    def call_with(call: Message) -> Message:
        function = call["function"]
        return call | {"function": function | {"arguments": _arguments(function["arguments"], as_mapping)}}

    return [
        {**each, "tool_calls": [call_with(call) for call in each["tool_calls"]]} if "tool_calls" in each else each
        for each in messages
    ]


def _arguments(arguments: object, as_mapping: bool) -> object:
    if as_mapping and isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    return arguments if as_mapping or isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _join_tools_to_calls(messages: Iterable[Message]) -> None:
    """Give calls the ids, and turns of tools the ids and names, that they lack: calls are answered in their order."""
    num_calls = 0
    names: dict[str, str] = {}
    unanswered: list[str] = []
    for message in messages:
        if "tool_calls" in message:
            unanswered = []
        for call in message.get("tool_calls", ()):
            if not call.get("id"):
                call["id"] = f"call{num_calls:05d}"
            num_calls += 1
            names[call["id"]] = call["function"]["name"]
            unanswered.append(call["id"])
        if message["role"] == "tool":
            if "tool_call_id" not in message and unanswered:
                message["tool_call_id"] = unanswered[0]
            answered = message.get("tool_call_id")
            if answered in unanswered:
                unanswered.remove(answered)
            if answered in names:
                message.setdefault("name", names[answered])
