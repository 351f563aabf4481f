"""The tools that a model may call, and what it is told to do with them."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client runs."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments, which are an object; None for a function without any."""
    strict: bool = False
    """Its calls are held to the schema, even where the model is free to call it or not."""

    def as_function(self) -> dict[str, Any]:
        """In OpenAI's form, which chat templates are written for."""
        described = {} if self.description is None else {"description": self.description}
        parameters = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": parameters}}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and whether they are to be called."""

    tools: tuple[Tool, ...] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    named: str | None = None
    """The only tool that may be called; the choice is `required` then."""
    parallel: bool = True
    """An answer may have several calls, unless the tool to call is named."""

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.choice != "none"

    @property
    def must_call(self) -> bool:
        return bool(self.tools) and self.choice == "required"

    @property
    def calls_once(self) -> bool:
        """An answer has one call at most: a name asks for that call, as with other servers."""
        return not self.parallel or self.named is not None

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """Those that an answer may call."""
        if not self.may_call:
            return ()
        return tuple(tool for tool in self.tools if self.named in (None, tool.name))
