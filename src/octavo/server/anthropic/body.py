"""The bodies of /v1/messages and /v1/messages/count_tokens."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from octavo.answers.tools import Tool, ToolUse
from octavo.sampling_params import SamplingParams
from octavo.server.anthropic.errors import THREAD_UNSUPPORTED
from octavo.server.errors import ApiError
from octavo.server.openai.body import MAX_WHOLE, Encodable, FirstError, StopText, Text, Whole
from octavo.server.openai.conversation_fields import Objects
from octavo.server.openai.foreign_fields import Neutral, check_foreign
from octavo.server.openai.tool_fields import read_function, use_of
from octavo.server.reasoning import ReasoningAsk
from octavo.structured_outputs import StructuredOutputsParams

_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_FUNCTION_KINDS = (None, "custom")
"""Types of tools that the client describes and runs itself. Others are Anthropic's own, and are left out."""
_OPENAIS_KIND = "function"


class PromptBody(BaseModel):
    """What a prompt is made of."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    messages: Objects = Field(
        description='{"role": "user" or "assistant", "content": a text or a list of blocks}; the answer goes on from '
        "a last message of the assistant's"
    )
    system: Text | Objects | None = Field(None, description="instructions, as a text or as text blocks")
    tools: Annotated[list[Any], FirstError(), Encodable] | None = Field(
        None,
        description='{"name", "description", "input_schema"} of functions that the client runs; others are left out',
    )
    tool_choice: dict[str, Any] | None = Field(
        None, description='{"type": "auto", "any", "tool" (with a name) or "none"; "disable_parallel_tool_use"}'
    )
    thinking: dict[str, Any] | None = Field(
        None, description='{"type": "enabled", "budget_tokens": ...}, "adaptive" or "disabled"; for models that think'
    )
    output_config: dict[str, Any] | None = Field(
        None, description='{"format": {"type": "json_schema", "schema": ...}, "effort": ...}'
    )
    cache_salt: StopText | None = Field(
        None, description="share computed prefixes only with requests of the same tenant that bring the same text"
    )
    chat_template_kwargs: Annotated[dict[str, Any], Encodable] | None = Field(
        None, description="further variables of the chat template"
    )

    def tool_use(self) -> ToolUse:
        """The tools, and whether they are called.

        Raises:
            ApiError: a field is wrong; the message names the place.
        """
        tools = [tool for i, each in enumerate(self.tools or ()) if (tool := _tool(f"tools[{i}]", each)) is not None]
        given = self.tool_choice or {}
        kind, name = given.get("type", "auto"), given.get("name")
        is_known = isinstance(kind, str) and kind in _CHOICES
        if not is_known or (kind == "tool" and not isinstance(name, str)):
            told = 'tool_choice.type must be "auto", "any", "none", or "tool" with a name'
            raise ApiError(400, told, param="tool_choice")
        is_single = given.get("disable_parallel_tool_use")
        if is_single is not None and not isinstance(is_single, bool):
            raise ApiError(400, "tool_choice.disable_parallel_tool_use must be true or false", param="tool_choice")
        return use_of(tools, _CHOICES[kind], name if kind == "tool" else None, parallel=not is_single)

    def reasoning_ask(self, does_think: bool) -> ReasoningAsk:
        """How the model thinks. What is only allowed asks nothing of a model that does not think at all.

        Raises:
            ApiError: `thinking` is malformed.
        """
        given = self.thinking or {}
        kind, budget = given.get("type"), given.get("budget_tokens")
        if self.thinking is not None and kind not in ("enabled", "adaptive", "between_tools", "disabled"):
            raise ApiError(400, 'thinking.type must be "enabled", "adaptive" or "disabled"', param="thinking")
        if kind == "enabled" and not (
            isinstance(budget, int) and not isinstance(budget, bool) and 0 < budget <= MAX_WHOLE
        ):
            raise ApiError(
                400, f"thinking.budget_tokens must be a whole number from 1 to {MAX_WHOLE}", param="thinking"
            )
        effort = (self.output_config or {}).get("effort")
        if effort is not None and not isinstance(effort, str):
            raise ApiError(400, "output_config.effort must be a text", param="output_config")
        if not does_think:
            return ReasoningAsk(field="thinking")
        return ReasoningAsk(
            field="thinking",
            enabled={"enabled": True, "disabled": False}.get(str(kind)),
            effort=effort if kind != "disabled" else None,
            max_tokens=budget if kind == "enabled" else None,
            is_told=given.get("display") != "omitted",
        )


class MessagesBody(PromptBody):
    """A conversation and how to go on with it."""

    max_tokens: Whole = Field(ge=1, description="tokens to generate, as far as they fit")
    stop_sequences: Annotated[list[StopText], FirstError()] | None = Field(None, description="texts that end an answer")
    stream: bool | None = Field(None, description="send the answer in pieces, as server-sent events")
    temperature: float | None = Field(None, ge=0, description="divides the logits; 0 is greedy; 1 by default")
    top_p: float | None = Field(None, ge=0, le=1, description="keep the most likely tokens that add up to this")
    top_k: Whole | None = Field(None, ge=-1, le=MAX_WHOLE, description="keep the k most likely tokens")
    seed: Whole | None = Field(None, ge=-(2**63), le=2**63 - 1, description="one seed gives one answer")

    foreign: ClassVar[dict[str, Neutral]] = {
        **dict.fromkeys(SamplingParams.__struct_fields__, ()),
        "n": (1,),
        "container": (),
        "mcp_servers": ([],),
    }
    """What changes an answer and has no place in this API."""

    @property
    def given_params(self) -> frozenset[str]:
        """The fields of sampling that the request brings."""
        names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
        return frozenset(name for name in names if getattr(self, name) is not None)

    def check_supported(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: the message names the field.
        """
        given = self.model_extra or {}
        check_foreign(given, self.foreign)
        if given.get("thread") is not None:
            told = "thread is not supported by this server, which stores no conversations: send all messages instead"
            raise ApiError(400, told, code=THREAD_UNSUPPORTED, param="thread")

    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            ApiError: `output_config` is malformed.
            RequestError: a value is out of its range.
        """
        given = {name: getattr(self, name) for name in self.given_params}
        return SamplingParams(
            **given, stop=self.stop_sequences or None, structured_outputs=_structure(self.output_config or {})
        )


def _tool(place: str, given: Any) -> Tool | None:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == _OPENAIS_KIND:
        told = f'{place} has OpenAI\'s form: send {{"name": ..., "description": ..., "input_schema": {{...}}}}'
        raise ApiError(400, told, param="tools")
    return read_function(place, given, "input_schema") if kind in _FUNCTION_KINDS else None


def _structure(config: dict[str, Any]) -> StructuredOutputsParams | None:
    wanted = config.get("format")
    if wanted is None:
        return None
    schema = wanted.get("schema") if isinstance(wanted, dict) and wanted.get("type") == "json_schema" else None
    if not isinstance(schema, dict):
        told = 'output_config.format must be {"type": "json_schema", "schema": an object}'
        raise ApiError(400, told, param="output_config")
    return StructuredOutputsParams(json=schema)
