"""The fields of a body that offer tools, and say which are called."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from octavo.answers.tools import Tool, ToolUse
from octavo.server.errors import ApiError
from octavo.server.openai.body import Encodable, FirstError
from octavo.server.openai.foreign_fields import unsupported

_NAME = re.compile(r"[\w.:/-]{1,128}")
_FUNCTION = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": f"^{_NAME.pattern}$"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"], "description": "a JSON schema of the arguments, an object"},
        "strict": {"type": ["boolean", "null"], "description": "calls are held to the schema"},
    },
    "required": ["name"],
}
_TOOL = {
    "type": "object",
    "properties": {"type": {"enum": ["function"], "default": "function"}, "function": _FUNCTION},
    "required": ["function"],
}
_CHOICES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
Functions = Annotated[list[Any], FirstError(), Encodable]


class ToolFields(BaseModel):
    """For bodies that ask for the next turn of a conversation."""

    tools: Annotated[Functions, WithJsonSchema({"type": "array", "items": _TOOL})] | None = Field(
        None, description="functions that the model may call, and the client runs"
    )
    tool_choice: Any = Field(
        None,
        description='"auto", the default with tools; "none"; "required": one call at least; or {"type": "function", '
        '"function": {"name": ...}}: one call of this one. Calls that must be made conform to their parameters',
    )
    parallel_tool_calls: bool | None = Field(None, description="an answer may have several calls; the default")
    functions: Annotated[Functions, WithJsonSchema({"type": "array", "items": _FUNCTION})] | None = Field(
        None, description="OpenAI's older form of tools: an answer calls one at most, as function_call"
    )
    function_call: Any = Field(None, description='"auto", "none", or {"name": ...}; only with functions')

    @property
    def calls_as_functions(self) -> bool:
        """Calls are told in OpenAI's older form."""
        return bool(self.functions)

    def tool_use(self) -> ToolUse:
        """The tools, and whether they are called.

        Raises:
            ApiError: a field is wrong; the message names the place.
        """
        if self.functions:
            if self.tools:
                raise ApiError(400, "functions and tools are two forms of the same: send tools", param="functions")
            tools = [read_function(f"functions[{i}]", each) for i, each in enumerate(self.functions)]
            choice, named = _choice("function_call", self.function_call)
            return use_of(tools, choice, named, parallel=False, field="function_call")
        if self.function_call not in (None, "none", "auto"):
            raise ApiError(400, "function_call is for functions only", param="function_call")
        tools = [_tool(f"tools[{i}]", each) for i, each in enumerate(self.tools or ())]
        if _is_allowed_tools(self.tool_choice):
            mode, names = _allowed(self.tool_choice["allowed_tools"])
            return allowed_use(tools, mode, names, parallel=self._is_parallel)
        choice, named = _choice("tool_choice", self.tool_choice)
        return use_of(tools, choice, named, parallel=self._is_parallel)

    @property
    def _is_parallel(self) -> bool:
        return self.parallel_tool_calls is not False


def use_of(
    tools: Sequence[Tool], choice: str, named: str | None, *, parallel: bool, field: str = "tool_choice"
) -> ToolUse:
    """What a request asks of its tools.

    Args:
        field: the one that says which are called.

    Raises:
        ApiError: two tools have one name, or a tool that must be called is not there.
    """
    names = set[str]()
    for tool in tools:
        if tool.name in names:
            raise ApiError(400, f"tools: two have the name {tool.name!r}", param="tools")
        names.add(tool.name)
    if named is not None and named not in names:
        raise _no_tool(field, named)
    if choice == "required" and not tools:
        raise ApiError(400, f"{field} wants a call, and there are no tools to call: send tools with it", param=field)
    return ToolUse(tuple(tools), choice, named, parallel)  # type: ignore[arg-type]


def allowed_use(tools: Sequence[Tool], choice: str, allowed: Sequence[str], *, parallel: bool) -> ToolUse:
    """What a request asks of those of its tools that `tool_choice` allows.

    Raises:
        ApiError: as `use_of`, or it allows one that is not there.
    """
    offered = {tool.name for tool in use_of(tools, "auto", None, parallel=parallel).tools}
    for name in allowed:
        if name not in offered:
            raise _no_tool("tool_choice", name)
    kept = set(allowed)
    return use_of([tool for tool in tools if tool.name in kept], choice, None, parallel=parallel)


def _no_tool(field: str, name: str) -> ApiError:
    return ApiError(400, f"{field} names {name[:100]!r}, which is none of the tools", param=field)


def read_function(place: str, given: Any, schema: str = "parameters") -> Tool:
    """A function with its name, description, parameters and strict.

    Args:
        place: where it stands in the body.
        schema: the name that the API gives the schema of its arguments.

    Raises:
        ApiError: it is malformed.
    """
    field = re.split(r"[\[.]", place)[0]

    def check(good: bool, what: str, wanted: str) -> None:
        if not good:
            raise ApiError(400, f"{place}{what} must be {wanted}", param=field)

    check(isinstance(given, Mapping), "", f'an object such as {{"name": ..., "{schema}": {{...}}}}')
    name, description, parameters, strict = (given.get(key) for key in ("name", "description", schema, "strict"))
    is_named = isinstance(name, str) and _NAME.fullmatch(name) is not None
    check(is_named, ".name", "a text of 1 to 128 letters, digits and _ . : / -")
    check(description is None or isinstance(description, str), ".description", "a text")
    check(parameters is None or isinstance(parameters, dict), f".{schema}", "a JSON schema, an object")
    check(strict is None or isinstance(strict, bool), ".strict", "true or false")
    takes_object = parameters is None or parameters.get("type", "object") == "object"
    check(takes_object, f".{schema}", 'of type "object"')
    return Tool(name, description, parameters, bool(strict))


def _tool(place: str, given: Any) -> Tool:
    if not isinstance(given, Mapping):
        raise ApiError(400, f'{place} must be an object such as {{"type": "function", "function": ...}}', param="tools")
    kind = given.get("type", "function")
    if kind != "function":
        told = kind[:80] if isinstance(kind, str) else kind
        raise unsupported("tools", f"{place}.type is {told!r}, and this server knows 'function' alone")
    return read_function(f"{place}.function", given.get("function"))


def _choice(field: str, given: Any) -> tuple[str, str | None]:
    """Whether a tool is called, and which if it is to be this one."""
    if given is None:
        return "auto", None
    if isinstance(given, str) and given in _CHOICES:
        return _CHOICES[given], None
    function = given.get("function", given) if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        wanted = ", ".join(f'"{word}"' for word in list(_CHOICES)[:3])
        raise ApiError(400, f"{field} must be {wanted} or the name of a function, as an object", param=field)
    return "required", name


def _is_allowed_tools(given: Any) -> bool:
    return isinstance(given, Mapping) and given.get("type") == "allowed_tools"


def _allowed(given: Any) -> tuple[str, list[str]]:
    """The mode of {"type": "allowed_tools"}, and the names."""
    mode = given.get("mode", "auto") if isinstance(given, Mapping) else None
    tools = given.get("tools") if isinstance(given, Mapping) else None
    if mode not in ("auto", "required") or not isinstance(tools, list):
        raise ApiError(
            400, 'tool_choice.allowed_tools must have a mode, "auto" or "required", and tools', param="tool_choice"
        )
    names = [_choice("tool_choice", tool)[1] for tool in tools]
    if None in names:
        raise ApiError(400, "tool_choice.allowed_tools.tools must have the name of a tool each", param="tool_choice")
    return mode, [str(name) for name in names]
