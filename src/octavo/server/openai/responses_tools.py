"""The tools of /v1/responses: functions that the client runs. Tools that OpenAI's own servers run are left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from octavo.answers.tools import Tool, ToolUse
from octavo.server.errors import ApiError
from octavo.server.openai.foreign_fields import unsupported
from octavo.server.openai.tool_fields import allowed_use, read_function, use_of

Choice = str | Mapping[str, Any] | None


def tool_use(tools: Sequence[Any], choice: Choice, *, parallel: bool) -> ToolUse:
    """The functions among the tools, and whether they are called.

    Raises:
        ApiError: one of the two is malformed, or a tool that must be called cannot be.
    """
    functions = [tool for index, each in enumerate(tools) if (tool := _function(f"tools[{index}]", each)) is not None]
    if choice is None or isinstance(choice, str):
        mode = choice or "auto"
        if mode not in ("auto", "none", "required"):
            raise _wrong_choice()
        return use_of(functions, mode, None, parallel=parallel)
    match choice.get("type"):
        case "function" if isinstance(name := choice.get("name"), str):
            return use_of(functions, "required", name, parallel=parallel)
        case "allowed_tools" if choice.get("mode") in ("auto", "required") and isinstance(choice.get("tools"), list):
            return allowed_use(functions, choice["mode"], _allowed_names(choice["tools"]), parallel=parallel)
        case "function" | "allowed_tools" | None:
            raise _wrong_choice()
        case kind:
            raise unsupported("tool_choice", f"its type is {str(kind)[:80]!r}, and this server runs no tools itself")


def echoed(use: ToolUse) -> list[dict[str, Any]]:
    """The tools that were offered to the model, as the response tells them."""
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        for tool in use.tools
    ]


def _function(place: str, given: Any) -> Tool | None:
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise ApiError(400, f'{place} must be an object such as {{"type": "function", "name": ...}}', param="tools")
    return read_function(place, given) if given["type"] == "function" else None


def _allowed_names(tools: Sequence[Any]) -> list[str]:
    """Of the functions among them."""
    functions = [tool for tool in tools if isinstance(tool, Mapping) and tool.get("type") == "function"]
    names = [tool.get("name") for tool in functions]
    if not all(isinstance(name, str) for name in names):
        raise _wrong_choice()
    return [str(name) for name in names]


def _wrong_choice() -> ApiError:
    return ApiError(
        400,
        'tool_choice must be "auto", "none", "required", {"type": "function", "name": ...} or {"type": '
        '"allowed_tools", "mode": "auto" or "required", "tools": [...]}',
        param="tool_choice",
    )
