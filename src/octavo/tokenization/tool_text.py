"""Tools, calls and what tools answer, as text: for chat templates that have no place for them.

The form is that of the Hermes models (NousResearch's Hermes-Function-Calling), which many others are trained with.
"""

import json
from collections.abc import Iterable
from typing import Any

from octavo.tokenization.conversation import Message, function_of

_BEFORE_TOOLS = "You can call functions. These are their signatures, as JSON:"
_BEHIND_TOOLS = """\
To call a function, write its name and its arguments as a JSON object:
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>
Write one such block for each call. What a call gives comes back inside <tool_response></tool_response>. \
Where no function is of use, answer without one."""


def tools_as_text(tools: Iterable[Message]) -> str:
    """What a model is told of its tools."""
    signatures = "\n".join(map(_json, tools))
    return f"{_BEFORE_TOOLS}\n<tools>\n{signatures}\n</tools>\n{_BEHIND_TOOLS}"


def functions_as_text(tools: Iterable[Message]) -> str:
    """The functions alone, as one JSON text."""
    return _json([function_of(tool) for tool in tools])


def calls_as_text(calls: Iterable[Message]) -> str:
    """An assistant's calls. Arguments that are JSON text stay as they are written."""
    return "\n".join(map(_call_as_text, calls))


def response_as_text(content: str) -> str:
    """What a tool answers."""
    return f"<tool_response>\n{content}\n</tool_response>"


def _call_as_text(call: Message) -> str:
    function = call["function"]
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) and _is_json(arguments) else _json(arguments)
    return f'<tool_call>\n{{"name": {_json(function["name"])}, "arguments": {written}}}\n</tool_call>'


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
