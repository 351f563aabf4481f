"""POST /v1/chat/completions: the next message of a conversation."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from msgspec import UNSET
from pydantic import Field
from starlette.responses import Response

from octavo.output_assembler import Delta
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.server.errors import ApiError
from octavo.server.openai import run
from octavo.server.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Usage,
    json_response,
)
from octavo.server.openai.body import SamplingBody, unsupported
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.logprobs import PositionLogprobs, chat_logprobs, prompt_logprobs
from octavo.server.request_context import RequestContext, context_of
from octavo.server.request_limits import check_caps
from octavo.server.serving import Serving, serving_of

RESERVED_VARIABLES = ("self", "messages", "add_generation_prompt")
"""Template variables that the server sets itself."""

router = APIRouter()


class ChatBody(SamplingBody):
    """A conversation and how to go on with it."""

    messages: list[dict[str, Any]] = Field(description='{"role": ..., "content": ...}, the latest last')
    max_completion_tokens: int | None = Field(None, ge=1, description="tokens to generate; as many as fit by default")
    max_tokens: int | None = Field(None, ge=1, description="the older name of max_completion_tokens")
    logprobs: bool | None = Field(None, description="tell each token's log-probability")
    top_logprobs: int | None = Field(None, ge=0, description="and those of this many most likely tokens")
    add_generation_prompt: bool | None = Field(None, description="end the prompt with the answer's opening; default")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="further variables of the chat template")
    tools: list[Any] | None = Field(None, description="only with tool_choice none")
    tool_choice: Any = Field(None, description="only none")
    functions: list[Any] | None = Field(None, description="not supported")
    response_format: dict[str, Any] | None = Field(None, description="only type text")
    modalities: list[str] | None = Field(None, description="only text")
    audio: Any = Field(None, description="not supported")

    def check_supported(self) -> None:
        super().check_supported()
        if self.tool_choice not in (None, "none", "auto") or (self.tools and self.tool_choice != "none"):
            raise unsupported("tools", 'leave them out, or send tool_choice "none"')
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise unsupported("response_format", 'leave it out, or send {"type": "text"}')
        if self.modalities not in (None, ["text"]):
            raise unsupported("modalities", 'leave it out, or send ["text"]')
        for name in ("audio", "functions"):
            if getattr(self, name):
                raise unsupported(name)
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs is for logprobs=true only", param="top_logprobs")
        for name in RESERVED_VARIABLES:
            if name in self.template_variables:
                raise ApiError(400, f"chat_template_kwargs must not set {name}", param="chat_template_kwargs")

    @property
    def template_variables(self) -> dict[str, Any]:
        return self.chat_template_kwargs or {}

    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            RequestError: a value is out of its range.
        """
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.sampling_params(max_tokens=max_tokens, logprobs=(self.top_logprobs or 0) if self.logprobs else None)


@router.post("/v1/chat/completions", summary="Answer a conversation")
async def create_chat_completion(body: ChatBody, request: Request) -> Response:
    """One answer or several to a conversation, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    serving.check_model(body.model)
    body.check_supported()
    check_caps(serving.config, n=body.num_answers, best_of=body.best_of, stop=body.stop, logit_bias=body.logit_bias)
    params = serving.sampling_defaults.applied(body.params(), body.given_params)
    text, token_ids = await serving.front.tokenize_chat(
        body.messages, body.add_generation_prompt is not False, **body.template_variables
    )
    await run.start(serving, context, [run.Prompt(text, token_ids)], params, body.cache_salt)
    answer = _ChatAnswer(serving, context, params, body)
    if body.stream:
        return event_stream(answer.chunks())
    [output] = await run.finish(serving, context)
    return json_response(answer.whole(output))


class _ChatAnswer:
    """Writes one request's answer."""

    def __init__(self, serving: Serving, context: RequestContext, params: SamplingParams, body: ChatBody) -> None:
        self._serving = serving
        self._context = context
        self._num_top = params.logprobs
        self._sends_usage = body.wants_usage_chunk
        self._id = f"chatcmpl-{context.request_id}"
        self._created = int(time.time())
        self._has_role = [False] * params.n

    def whole(self, output: RequestOutput) -> ChatCompletion:
        scored = output.prompt_logprobs
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._serving.model_name,
            choices=[self._choice(sequence) for sequence in output.outputs],
            usage=Usage.of([output]),
            prompt_logprobs=UNSET if scored is None else prompt_logprobs(scored),
        )

    async def chunks(self) -> AsyncIterator[list[ChatChunk]]:
        async for gained in run.deltas(self._serving, self._context):
            yield [self._chunk([choice]) for delta in gained.deltas for choice in self._chunk_choices(delta)]
        if self._sends_usage:
            yield [self._chunk([], Usage.of([generation.output for generation in self._context.generations]))]

    def _choice(self, sequence: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            sequence.index, ChatMessage(sequence.text), self._logprobs(sequence.logprobs), sequence.finish_reason
        )

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        sent_usage = usage if self._sends_usage else UNSET
        return ChatChunk(self._id, self._created, self._serving.model_name, choices, sent_usage)

    def _chunk_choices(self, delta: Delta) -> list[ChatChunkChoice]:
        """First the role, then text as it comes, the end last and by itself."""
        choices = []
        if not self._has_role[delta.index]:
            self._has_role[delta.index] = True
            choices.append(ChatChunkChoice(delta.index, ChatDelta("assistant", "")))
        if delta.text or delta.logprobs:
            choices.append(ChatChunkChoice(delta.index, ChatDelta(content=delta.text), self._logprobs(delta.logprobs)))
        if delta.finish_reason is not None:
            choices.append(ChatChunkChoice(delta.index, ChatDelta(), finish_reason=delta.finish_reason))
        return choices

    def _logprobs(self, positions: Sequence[PositionLogprobs] | None) -> ChatLogprobs | None:
        if positions is None or self._num_top is None:
            return None
        return chat_logprobs(self._serving.front.tokenizer, positions, self._num_top)
