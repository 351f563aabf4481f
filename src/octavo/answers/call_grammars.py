"""What answers with calls conform to: the model's own markers, and the schemas of the tools' arguments."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from octavo.answers.tools import Tool, ToolUse
from octavo.answers.writing import Writing

Format = Mapping[str, Any]
"""A part of a structural tag (`sampling.structural_tags`)."""

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
STYLES = {"json": "json", "python": "python", "tagged": "qwen_xml"}
"""Of a `json_schema` in a structural tag, by how arguments are written."""


def answer_grammar(writing: Writing, use: ToolUse, text: Format | None) -> dict[str, Any] | None:
    """As `AnswerFormat.answer_grammar`, for calls and text that are written so."""
    tools = use.callable_tools
    if use.must_call and tools:
        return dict(_sequence(_maybe(writing.lead), _calls(writing, use)))
    if text is not None:
        calls = [_calls(writing, replace(use, choice="required"))] if tools else []
        return dict(_framed(writing, writing.silent_preamble, [_marked(writing, text), *calls]))
    if tools and (not use.parallel or any(tool.strict for tool in tools)):
        return dict(_text_or_calls(writing, use))
    return None


def _framed(writing: Writing, preamble: Format | None, either: list[Format]) -> Format:
    """One of some ways to answer, behind what may come before it."""
    one = either[0] if len(either) == 1 else {"type": "or", "elements": either}
    return _sequence(_maybe(writing.lead), preamble or _fixed(""), one)


def _marked(writing: Writing, text: Format) -> Format:
    return _sequence(_fixed(writing.text_opening), text)


def _text_or_calls(writing: Writing, use: ToolUse) -> Format:
    """Text, with calls or without."""
    tools = use.callable_tools
    kept_out = {"excluded_pattern": _kept_out(writing, tools)}
    if writing.text_opening or not writing.trigger:
        text: Format = {"type": "any_text", **({} if writing.text_opening else kept_out)}
        return _framed(writing, writing.preamble, [_calls(writing, use), _marked(writing, text)])
    if writing.before:
        tags = [_tag(writing.before, _listed(writing, use), writing.behind)]
    else:
        tags = [_call(writing, use, tool) for tool in tools]
    return {
        "type": "triggered_tags",
        "triggers": [writing.trigger],
        "tags": tags,
        "stop_after_first": use.calls_once,
        **kept_out,
    }


def _calls(writing: Writing, use: ToolUse) -> Format:
    """One call at least."""
    return _sequence(_fixed(writing.before), _listed(writing, use), _fixed(writing.behind))


def _listed(writing: Writing, use: ToolUse) -> Format:
    return {
        "type": "tags_with_separator",
        "tags": [_call(writing, use, tool) for tool in use.callable_tools],
        "separator": writing.between,
        "at_least_one": True,
        "stop_after_first": use.calls_once,
    }


def _call(writing: Writing, use: ToolUse, tool: Tool) -> Format:
    begin, is_given, more = writing.opening_of(tool.name).partition("{id}")
    call_id = [{"type": "regex", "pattern": "[a-zA-Z0-9]{9}"}, _fixed(more)] if is_given else []
    return _tag(begin, _sequence(*call_id, _arguments(writing, use, tool)), writing.closing)


def _arguments(writing: Writing, use: ToolUse, tool: Tool) -> Format:
    is_held = use.must_call or tool.strict
    schema = (NO_ARGUMENTS if tool.parameters is None else tool.parameters) if is_held else ANY_ARGUMENTS
    return {"type": "json_schema", "json_schema": schema, "style": STYLES[writing.arguments]}


def _kept_out(writing: Writing, tools: Iterable[Tool]) -> str:
    """A regex of texts that a reader would take for the beginning of a call."""
    return writing.not_in_text.replace("{names}", "|".join(_escaped(tool.name) for tool in tools))


def _escaped(text: str) -> str:
    return "".join(each if each.isalnum() or each == "_" else f"\\x{{{ord(each):x}}}" for each in text)


def _tag(begin: str, content: Format, end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _fixed(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _maybe(text: str) -> Format:
    return {"type": "optional", "content": _fixed(text)} if text else _fixed("")


def _sequence(*elements: Format) -> Format:
    kept = [each for each in elements if each != _fixed("")]
    return kept[0] if len(kept) == 1 else {"type": "sequence", "elements": kept}
