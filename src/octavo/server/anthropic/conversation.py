"""Conversations in Anthropic's form, as messages that chat templates are written for."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from octavo.errors import RequestError

BILLING_LINE = "x-anthropic-billing-header:"
"""What the first line of some clients' instructions begins with. It is another with each request and says nothing to a
model: it is left out, so that the instructions behind it are found in the prefix cache."""
_ROLES = ("user", "assistant", "system")


def chat_messages(system: str | list[dict[str, Any]] | None, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with tool calls and tool results in OpenAI's form.

    Raises:
        RequestError: they are malformed, or hold what is no text; the message names the place.
    """
    told = [] if system is None else _instructions(system)
    for index, message in enumerate(messages):
        place, role = f"messages[{index}]", message.get("role")
        if role not in _ROLES:
            raise RequestError(f'{place}.role must be "user" or "assistant"')
        blocks = _blocks(f"{place}.content", message.get("content"))
        told += [_assistant_turn(place, blocks)] if role == "assistant" else _turns(place, role, blocks)
    return told


def begins_answer(messages: list[dict[str, Any]]) -> bool:
    """Whether the last message is the beginning of the answer."""
    return bool(messages) and messages[-1].get("role") == "assistant"


def _instructions(system: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    texts = [_without_billing_line(text) for text in _texts("system", _blocks("system", system))]
    kept = [text for text in texts if text]
    return [{"role": "system", "content": _joined(kept)}] if kept else []


def _without_billing_line(text: str) -> str:
    return text.partition("\n")[2].lstrip("\n") if text.startswith(BILLING_LINE) else text


def _blocks(place: str, content: object) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, Mapping) for block in content):
        raise RequestError(f"{place} must be a text or a list of blocks")
    return content


def _texts(place: str, blocks: list[Mapping[str, Any]]) -> Iterator[str]:
    for index, block in enumerate(blocks):
        if block.get("type") != "text":
            raise RequestError(f"{place}[{index}].type is {str(block.get('type'))[:80]!r}; here it must be 'text'")
        yield _text(f"{place}[{index}].text", block.get("text"))


def _text(place: str, text: object) -> str:
    if not isinstance(text, str):
        raise RequestError(f"{place} must be a text")
    return text


def _joined(texts: list[str]) -> str | list[dict[str, str]]:
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _turns(place: str, role: str, blocks: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results of tools are turns of their own, before what the user says with them."""
    turns, texts = [], []
    for index, block in enumerate(blocks):
        where = f"{place}.content[{index}]"
        match block.get("type"):
            case "text":
                texts.append(_text(f"{where}.text", block.get("text")))
            case "tool_result":
                turns.append(_tool_turn(where, block))
            case kind:
                raise RequestError(f"{where}.type is {str(kind)[:80]!r}; this server takes 'text' and 'tool_result'")
    if texts or not turns:
        turns.append({"role": role, "content": _joined(texts) if texts else ""})
    return turns


def _tool_turn(place: str, block: Mapping[str, Any]) -> dict[str, Any]:
    content = block.get("content")
    told = "" if content is None else _joined(list(_texts(f"{place}.content", _blocks(f"{place}.content", content))))
    return {"role": "tool", "tool_call_id": _text(f"{place}.tool_use_id", block.get("tool_use_id")), "content": told}


def _assistant_turn(place: str, blocks: list[Mapping[str, Any]]) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for index, block in enumerate(blocks):
        where = f"{place}.content[{index}]"
        match block.get("type"):
            case "text":
                texts.append(_text(f"{where}.text", block.get("text")))
            case "thinking":
                thoughts.append(_text(f"{where}.thinking", block.get("thinking")))
            case "redacted_thinking":
                pass  # nobody but Anthropic can read it
            case "tool_use":
                calls.append(_call(where, block))
            case kind:
                told = f"{where}.type is {str(kind)[:80]!r}; this server takes 'text', 'thinking' and 'tool_use'"
                raise RequestError(told)
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        turn["reasoning_content"] = "\n".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call(place: str, block: Mapping[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    if not isinstance(given, Mapping):
        raise RequestError(f"{place}.input must be an object")
    function = {"name": _text(f"{place}.name", block.get("name")), "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": _text(f"{place}.id", block.get("id")), "type": "function", "function": function}
