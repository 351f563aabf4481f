"""The body of POST /v1/responses."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from octavo.answers.tools import ToolUse
from octavo.errors import RequestError
from octavo.sampling_params import ALL_TOKENS, SamplingParams
from octavo.server.errors import ApiError
from octavo.server.openai.aliases import RESPONSES_ALIASES, Alias
from octavo.server.openai.body import (
    MAX_WHOLE,
    MOST_LIKELY,
    Encodable,
    FirstError,
    SamplingFields,
    Text,
    Whole,
    tell_aliases,
)
from octavo.server.openai.conversation_fields import ConversationFields, Objects
from octavo.server.openai.foreign_fields import INSTEAD, REFUSED, Neutral, check_foreign, unsupported
from octavo.server.openai.reasoning_fields import ReasoningFields
from octavo.server.openai.responses_input import chat_messages
from octavo.server.openai.responses_schemas import INPUT, TOOLS
from octavo.server.openai.responses_tools import tool_use
from octavo.server.openai.structured_fields import StructuredFields
from octavo.server.reasoning import ReasoningAsk
from octavo.tokenization.conversation import Conversation

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_STORES_NOTHING = "nothing is stored here, send the whole conversation as input"
_INSTEAD = INSTEAD | {
    **dict.fromkeys(("conversation", "previous_response_id"), _STORES_NOTHING),
    "max_length": "send max_output_tokens",
    **dict.fromkeys(("input_ids", "inputs", "messages", "prompt"), "send the text as input"),
    **dict.fromkeys(("best_of", "n", "use_beam_search"), "a response has one answer"),
    "logprobs": "send top_logprobs",
    "background": "leave it out, and wait for the answer",
}


class TextOptions(BaseModel):
    """What the text of the answer is like."""

    model_config = ConfigDict(strict=True)

    format: Annotated[dict[str, Any], Encodable] | None = Field(
        None,
        description='{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "name": ..., "schema": ...}: '
        "the answer validates, strict or not",
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="only medium")


class ResponsesBody(ConversationFields, StructuredFields, ReasoningFields, SamplingFields):
    """What to answer, and how."""

    model_config = ConfigDict(json_schema_extra=tell_aliases)

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    input: Annotated[Text | Objects, WithJsonSchema(INPUT)] = Field(
        description="a user's message, or the items of a conversation, the latest last"
    )
    instructions: Text | None = Field(None, description="a system message before the input")
    stream: bool | None = Field(None, description="send the answer as server-sent events")
    max_output_tokens: Whole | None = Field(
        None, ge=1, description="tokens to generate, as far as they fit; as many as fit by default"
    )
    tools: Annotated[Annotated[list[Any], FirstError(), Encodable] | None, WithJsonSchema(TOOLS)] = Field(
        None, description="functions that the client runs; tools that a server would run are left out"
    )
    tool_choice: str | Annotated[dict[str, Any], Encodable] | None = Field(
        None,
        description='"auto", the default; "none", "required", {"type": "function", "name": ...} or {"type": '
        '"allowed_tools", "mode": ..., "tools": [...]}',
    )
    parallel_tool_calls: bool | None = Field(None, description="an answer may have several calls; the default")
    max_tool_calls: Whole | None = Field(None, ge=0, le=MAX_WHOLE, description="of tools that a server would run")
    text: TextOptions | None = Field(None, description="the form of the answer's text")
    reasoning: dict[str, Any] | None = Field(
        None,
        description='{"effort": ...}, for models that think; "summary" changes nothing: the reasoning is told',
    )
    include: Annotated[list[str], FirstError()] | None = Field(
        None, description='"message.output_text.logprobs", "reasoning.encrypted_content"; others add nothing here'
    )
    top_logprobs: Whole | None = Field(
        None, ge=ALL_TOKENS, le=MAX_WHOLE, description=f"tell log-probabilities, and those of this many {MOST_LIKELY}"
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="what does not fit is refused, whatever is asked for"
    )
    store: bool | None = Field(None, description="changes nothing: no response is stored")
    metadata: Annotated[dict[str, str], Encodable] | None = Field(None, description="told again in the response")
    user: Text | None = Field(None, description="told again in the response")
    safety_identifier: Text | None = Field(None, description="told again in the response")
    prompt_cache_key: Text | None = Field(None, description="told again; prefixes are found without it")

    foreign: ClassVar[dict[str, Neutral]] = REFUSED | {
        **dict.fromkeys(SamplingParams.__struct_fields__, ()),
        "return_full_text": (),
        "n": (1,),
        "background": (),
        "best_of": (1,),
        "context_management": ([],),
        "conversation": (),
        "echo": (),
        "messages": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "return_token_ids": (),
        "truncate_prompt_tokens": (),
        "use_beam_search": (),
    }
    """What changes an answer and has no place in this API."""
    aliases: ClassVar[Mapping[str, Alias]] = RESPONSES_ALIASES

    @property
    def wants_logprobs(self) -> bool:
        return self.top_logprobs not in (None, 0) or "message.output_text.logprobs" in (self.include or ())

    @property
    def wants_encrypted_reasoning(self) -> bool:
        return "reasoning.encrypted_content" in (self.include or ())

    @property
    def text_config(self) -> dict[str, Any]:
        """As the response tells it."""
        wanted = None if self.text is None else self.text.format
        return {"format": wanted or {"type": "text"}, "verbosity": "medium"}

    def check_supported(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: the message names the field.
        """
        check_foreign(self.model_extra or {}, self.foreign, _INSTEAD)
        self.check_conversation()
        if self.text is not None and self.text.verbosity not in (None, "medium"):
            raise unsupported("text.verbosity", 'leave it out, or send "medium"')

    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            ApiError: what the answer conforms to is malformed.
            RequestError: a value is out of its range.
        """
        asked = self.structured()
        return SamplingParams(
            **self.given_sampling(),
            max_tokens=self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            structured_outputs=None if asked is None else asked.params,
        )

    def given_structures(self) -> dict[str, dict[str, Any] | None]:
        wanted = None if self.text is None or self.text.format is None else _structure(self.text.format)
        return super().given_structures() | {"text.format": wanted}

    def tool_use(self) -> ToolUse:
        """The tools, and whether they are called.

        Raises:
            ApiError: a field is wrong; the message names the place.
        """
        return tool_use(self.tools or (), self.tool_choice, parallel=self.parallel_tool_calls is not False)

    def asked_reasoning(self, can_think: bool) -> ReasoningAsk:
        """How the model thinks. Some clients send an effort whatever the model is: it says nothing to one that does not
        think at all.

        Raises:
            ApiError: a field is wrong, or two do not agree.
        """
        ask = self.reasoning_ask()
        is_idle = not can_think and self.reasoning is not None
        return dataclasses.replace(ask, effort=self.reasoning_effort) if is_idle else ask

    def as_conversation(self, allow_template: bool) -> Conversation:
        """What the prompt is made of.

        Raises:
            ApiError: an item is malformed, or cannot be told to a model of text; or the body brings a template, and the
                server takes none.
        """
        try:
            messages = chat_messages(self.instructions, self.input)
        except RequestError as error:
            raise ApiError(400, str(error), param="input") from error
        return self.conversation(messages, allow_template)


def _structure(wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return {"json_object": True}
        case "json_schema":
            name = wanted.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise _wrong_format("name", "a text of 1 to 64 letters, digits, underscores and dashes")
            if wanted.get("strict") is not None and not isinstance(wanted["strict"], bool):
                raise _wrong_format("strict", "true or false")
            if not isinstance(wanted.get("schema"), dict):
                raise _wrong_format("schema", "an object")
            return {"json": wanted["schema"]}
        case _:
            raise _wrong_format("type", "one of text, json_object, json_schema")


def _wrong_format(where: str, wanted: str) -> ApiError:
    return ApiError(400, f"text.format.{where} must be {wanted}", param="text.format")
