"""POST /v1/chat/completions: the next message of a conversation."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from pydantic import Field
from starlette.responses import Response

from octavo.answers.parts import Answer, CallArguments, CallStart, Part, Reasoning, Text
from octavo.sampling_params import ALL_TOKENS, SamplingParams
from octavo.server.conversing import Answers, EndReason, Gained, Turn, WholeAnswer, begin
from octavo.server.errors import ApiError
from octavo.server.openai import run
from octavo.server.openai.aliases import CHAT_ALIASES, Alias
from octavo.server.openai.answers import (
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatFinishReason,
    ChatLogprobs,
    ChatMessage,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    json_response,
)
from octavo.server.openai.body import MAX_WHOLE, MOST_LIKELY, SamplingBody, Whole
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.conversation_fields import ConversationFields, Messages
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.foreign_fields import REFUSED, Neutral
from octavo.server.openai.logprobs import PositionLogprobs, TokenNames, chat_logprobs, prompt_logprobs
from octavo.server.openai.prediction import Prediction
from octavo.server.openai.reasoning_fields import ReasoningFields
from octavo.server.openai.tool_fields import ToolFields
from octavo.server.request_context import RequestContext, context_of
from octavo.server.serving import Serving, serving_of

router = APIRouter()


class ChatBody(ConversationFields, ToolFields, ReasoningFields, SamplingBody):
    """A conversation and how to go on with it."""

    messages: Messages = Field(description='{"role": ..., "content": ...}, the latest last')
    max_completion_tokens: Whole | None = Field(
        None, ge=1, description="tokens to generate, as far as they fit; as many as fit by default"
    )
    max_tokens: Whole | None = Field(None, ge=1, description="the older name of max_completion_tokens")
    logprobs: bool | None = Field(None, description="tell each token's log-probability")
    top_logprobs: Whole | None = Field(
        None, ge=ALL_TOKENS, le=MAX_WHOLE, description=f"and those of this many {MOST_LIKELY}"
    )

    prediction: Prediction | None = Field(
        None, description="a text that the answer may resemble: it is the same, and faster unless --speculate is off"
    )

    aliases: ClassVar[Mapping[str, Alias]] = CHAT_ALIASES
    foreign: ClassVar[dict[str, Neutral]] = REFUSED | {"prompt": (), "suffix": ("",)}

    def check_supported(self) -> None:
        super().check_supported()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs is for logprobs=true only", param="top_logprobs")
        self.check_named_tokens(bool(self.logprobs))
        self.check_conversation()
        self.tool_use()
        self.reasoning_ask()

    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            RequestError: a value is out of its range.
        """
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.sampling_params(max_tokens=max_tokens, logprobs=(self.top_logprobs or 0) if self.logprobs else None)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=takes(ChatBody),
    responses=gives(ChatCompletion, ChatChunk),
)
async def create_chat_completion(request: Request) -> Response:
    """One answer or several to a conversation, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    body, params = await run.read(request, ChatBody)
    asked = body.structured()
    turn = Turn(
        conversation=body.conversation(body.messages, serving.config.allow_request_templates),
        params=params,
        use=body.tool_use(),
        reasoning=body.reasoning_ask(),
        structured_field="response_format" if asked is None else asked.field,
        cut=run.Cut.of(body),
        add_special_tokens=bool(body.add_special_tokens),
        cache_salt=body.cache_salt,
        priority=body.priority or 0,
        predicted="" if body.prediction is None else body.prediction.text,
    )
    answer = _ChatAnswer(serving, context, await begin(serving, context, turn), params, body)
    if body.stream:
        return await event_stream(answer.chunks())
    return json_response(await answer.whole())


class _ChatAnswer:
    """Writes one request's answer."""

    def __init__(
        self, serving: Serving, context: RequestContext, answers: Answers, params: SamplingParams, body: ChatBody
    ) -> None:
        self._serving = serving
        self._answers = answers
        self._body = body
        self._num_top = params.logprobs if params.logprob_token_ids is None else ALL_TOKENS
        self._names = TokenNames(serving.front.tokenizer, bool(body.return_tokens_as_token_ids))
        self._id = f"chatcmpl-{context.request_id}"
        self._created = int(time.time())
        self._has_role = [False] * params.n
        self._echoed = _echoed(body) if body.echo else ""

    async def whole(self) -> ChatCompletion:
        choices = [self._choice(answer) for answer in await self._answers.whole()]
        output = self._answers.output
        scored = output.prompt_logprobs
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._serving.model_name,
            choices=choices,
            usage=Usage.of([output]),
            system_fingerprint=self._serving.system_fingerprint,
            prompt_logprobs=UNSET if scored is None else prompt_logprobs(scored),
            prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else UNSET,
        )

    async def chunks(self) -> AsyncIterator[list[ChatChunk]]:
        usage: Usage | UnsetType | None = None if self._body.wants_usage_chunk else UNSET
        async for gained in self._answers.gained():
            if self._body.wants_usage_always:
                usage = self._usage()
            yield [self._chunk([choice], usage) for each in gained for choice in self._chunk_choices(each)]
        if self._body.wants_usage_chunk:
            yield [self._chunk([], self._usage())]

    def _choice(self, whole: WholeAnswer) -> ChatChoice:
        sequence = whole.output
        return ChatChoice(
            sequence.index,
            self._message(whole.answer),
            self._logprobs(sequence.logprobs),
            self._finish_reason(whole.end_reason),
            sequence.stop_reason,
            sequence.token_ids if self._body.return_token_ids else UNSET,
        )

    def _message(self, answer: Answer) -> ChatMessage:
        text = self._echoed + answer.text
        message = ChatMessage(text if text or not answer.calls else None)
        if answer.reasoning:
            message.reasoning_content = message.reasoning = answer.reasoning
        if answer.calls and self._body.calls_as_functions:
            message.function_call = CalledFunction(answer.calls[0].name, answer.calls[0].arguments)
        elif answer.calls:
            message.tool_calls = [
                ToolCall(call.id or "", CalledFunction(call.name, call.arguments)) for call in answer.calls
            ]
        return message

    def _finish_reason(self, end_reason: EndReason | None) -> ChatFinishReason | None:
        return "function_call" if end_reason == "tool_calls" and self._body.calls_as_functions else end_reason

    def _usage(self) -> Usage:
        return Usage.of([self._answers.output])

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None) -> ChatChunk:
        model, fingerprint = self._serving.model_name, self._serving.system_fingerprint
        chunk = ChatChunk(self._id, self._created, model, choices, fingerprint, usage)
        if self._body.return_token_ids and choices and choices[0].delta.role:
            chunk.prompt_token_ids = self._answers.output.prompt_token_ids
        return chunk

    def _chunk_choices(self, gained: Gained) -> list[ChatChunkChoice]:
        """First the role and what is echoed, then the parts as they come, the end last and by itself."""
        choices, delta = [], gained.delta
        if not self._has_role[delta.index]:
            self._has_role[delta.index] = True
            choices.append(ChatChunkChoice(delta.index, ChatDelta("assistant", self._echoed)))
        told_ids = delta.token_ids if self._body.return_token_ids and delta.token_ids else UNSET
        pieces = [self._delta_of(part) for part in gained.parts]
        if not pieces and (delta.logprobs or told_ids):
            pieces = [ChatDelta(content="")]
        told = [ChatChunkChoice(delta.index, piece) for piece in pieces]
        if told:  # tokens are not told by parts: the first piece has them all
            told[0].logprobs, told[0].token_ids = self._logprobs(delta.logprobs), told_ids
        choices += told
        if gained.end_reason is not None:
            end = ChatChunkChoice(delta.index, ChatDelta(), finish_reason=self._finish_reason(gained.end_reason))
            end.stop_reason = delta.stop_reason
            choices.append(end)
        return choices

    def _delta_of(self, part: Part) -> ChatDelta:
        match part:
            case Text(text):
                return ChatDelta(content=text)
            case Reasoning(text):
                return ChatDelta(reasoning_content=text, reasoning=text)
            case CallStart(index, name, call_id):
                function = FunctionDelta(name)
                if self._body.calls_as_functions:
                    return ChatDelta(function_call=function)
                return ChatDelta(tool_calls=[ToolCallDelta(index, function, call_id or "", "function")])
            case CallArguments(index, text):
                function = FunctionDelta(arguments=text)
                if self._body.calls_as_functions:
                    return ChatDelta(function_call=function)
                return ChatDelta(tool_calls=[ToolCallDelta(index, function)])

    def _logprobs(self, positions: Sequence[PositionLogprobs] | None) -> ChatLogprobs | None:
        if positions is None or self._num_top is None:
            return None
        return chat_logprobs(self._names, positions, self._num_top)


def _echoed(body: ChatBody) -> str:
    """The text of the last message, where the assistant has begun it."""
    last = body.messages[-1]
    content = last.get("content") if last.get("role") == "assistant" else None
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""
