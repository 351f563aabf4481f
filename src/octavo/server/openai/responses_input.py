"""The input of /v1/responses, text or items, as the messages that chat templates are written for."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from octavo.errors import RequestError

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TEXT_KEYS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Where each kind of content part has its text."""
_OWN_REASONING = "octavo:"
"""What `encrypted_content` of this server begins with. What follows is the reasoning's text in base64: it is the
client's own, so there is nobody to hide it from."""


def chat_messages(instructions: str | None, given: str | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages in the form of chat completions.

    Items of the assistant's that follow one another (reasoning, messages, calls) are one turn, as templates write them.
    So are the instructions and the messages of systems and developers that come first: most templates take one.

    Raises:
        RequestError: an item is malformed, or is none that a model of text can be told; the message names its place.
    """
    turns = _Turns()
    if instructions:
        turns.said("system", [instructions])
    if isinstance(given, str):
        turns.said("user", [given])
    elif not given:
        raise RequestError("input must hold an item at least")
    else:
        for index, item in enumerate(given):
            _read_item(turns, f"input[{index}]", item)
    return [turn.message() for turn in turns.turns]


def encrypted(reasoning: str) -> str:
    """The text of an answer's reasoning, for clients that send it back in `encrypted_content`."""
    return _OWN_REASONING + base64.b64encode(reasoning.encode()).decode()


@dataclass(slots=True)
class _Turn:
    """A message while its items come."""

    role: str
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    """Of a tool: the call that it answers, and its own name where that is known."""

    def message(self) -> dict[str, Any]:
        content: Any = (
            self.texts[0] if len(self.texts) == 1 else [{"type": "text", "text": text} for text in self.texts]
        )
        message = {"role": self.role, "content": content, **self.answers}
        if self.reasoning:
            message["reasoning_content"] = "\n".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class _Turns:
    """Collects the messages of a conversation."""

    def __init__(self) -> None:
        self.turns: list[_Turn] = []
        self._called: dict[str, str] = {}
        """The names of called tools, by the ids of the calls."""

    def said(self, role: str, texts: Sequence[str]) -> None:
        begins = len(self.turns) == 1 and role == "system" == self.turns[0].role
        turn = self.turns[0] if begins else self.assistant if role == "assistant" else self._begin(role)
        turn.texts += texts

    @property
    def assistant(self) -> _Turn:
        """The assistant's turn that items go on with."""
        return self.turns[-1] if self.turns and self.turns[-1].role == "assistant" else self._begin("assistant")

    def called(self, call_id: str, name: str, arguments: str) -> None:
        self._called[call_id] = name
        function = {"name": name, "arguments": arguments}
        self.assistant.calls.append({"id": call_id, "type": "function", "function": function})

    def answered(self, call_id: str, texts: Sequence[str]) -> None:
        turn = self._begin("tool")
        turn.texts += texts
        turn.answers["tool_call_id"] = call_id
        if call_id in self._called:
            turn.answers["name"] = self._called[call_id]

    def _begin(self, role: str) -> _Turn:
        self.turns.append(_Turn(role))
        return self.turns[-1]


def _read_item(turns: _Turns, place: str, item: object) -> None:
    if not isinstance(item, Mapping):
        raise RequestError(f"{place} must be an object, got {type(item).__name__}")
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item else "item_reference"
    if kind == "item_reference":
        raise RequestError(f"{place} refers to an item by its id, and this server stores none: send the item itself")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise RequestError(f"{place}.type is {str(kind)[:80]!r}, and this server takes only {', '.join(_READERS)}")
    read(turns, place, item)


def _read_message(turns: _Turns, place: str, item: Mapping[str, Any]) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(f"{place}.role is {str(role)[:80]!r}; it must be one of {', '.join(_ROLES)}")
    turns.said(_ROLES[role], _texts(f"{place}.content", item.get("content")))


def _read_reasoning(turns: _Turns, place: str, item: Mapping[str, Any]) -> None:
    """Its text, else what this server has put into `encrypted_content`, else the summary. Reasoning that another
    server has encrypted cannot be read by anybody else."""
    turn = turns.assistant
    text = "".join(_part_texts(f"{place}.content", item.get("content"), "reasoning_text"))
    text = text or _decrypted(item.get("encrypted_content"))
    text = text or "\n\n".join(_part_texts(f"{place}.summary", item.get("summary"), "summary_text"))
    if text:
        turn.reasoning.append(text)


def _read_call(turns: _Turns, place: str, item: Mapping[str, Any]) -> None:
    turns.called(*(_text(f"{place}.{key}", item.get(key)) for key in ("call_id", "name", "arguments")))


def _read_call_output(turns: _Turns, place: str, item: Mapping[str, Any]) -> None:
    turns.answered(_text(f"{place}.call_id", item.get("call_id")), _texts(f"{place}.output", item.get("output")))


_READERS: dict[str, Callable[[_Turns, str, Mapping[str, Any]], None]] = {
    "message": _read_message,
    "reasoning": _read_reasoning,
    "function_call": _read_call,
    "function_call_output": _read_call_output,
}


def _texts(place: str, content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise RequestError(f"{place} must be a text or a list of parts")
    return [_content_text(f"{place}[{index}]", part) for index, part in enumerate(content)]


def _content_text(place: str, part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    key = _TEXT_KEYS.get(kind) if isinstance(kind, str) else None
    if key is None or not isinstance(part, Mapping):
        raise RequestError(f"{place}.type is {str(kind)[:80]!r}, and this model takes only {', '.join(_TEXT_KEYS)}")
    return _text(f"{place}.{key}", part.get(key))


def _part_texts(place: str, parts: object, kind: str) -> list[str]:
    """The texts of parts that are all of one kind; none where there are no parts."""
    if parts is None:
        return []
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) and part.get("type") == kind for part in parts):
        raise RequestError(f'{place} must be a list of {{"type": "{kind}", "text": ...}}')
    return [_text(f"{place}[{index}].text", part.get("text")) for index, part in enumerate(parts)]


def _text(place: str, given: object) -> str:
    if not isinstance(given, str):
        raise RequestError(f"{place} must be a text")
    return given


def _decrypted(given: object) -> str:
    if not isinstance(given, str) or not given.startswith(_OWN_REASONING):
        return ""
    try:
        return base64.b64decode(given.removeprefix(_OWN_REASONING), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
