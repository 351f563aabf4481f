"""POST /v1/chat/completions: the next message of a conversation."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from pydantic import Field
from starlette.responses import Response

from octavo.output_assembler import Delta
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import ALL_TOKENS, SamplingParams
from octavo.server.errors import ApiError
from octavo.server.openai import run
from octavo.server.openai.aliases import CHAT_ALIASES, Alias
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
from octavo.server.openai.body import MAX_WHOLE, MOST_LIKELY, SamplingBody, Whole
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.conversation_fields import ConversationFields, Messages
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.foreign_fields import REFUSED, Neutral
from octavo.server.openai.logprobs import PositionLogprobs, TokenNames, chat_logprobs, prompt_logprobs
from octavo.server.request_context import RequestContext, context_of
from octavo.server.serving import Serving, serving_of

router = APIRouter()


class ChatBody(ConversationFields, SamplingBody):
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

    aliases: ClassVar[Mapping[str, Alias]] = CHAT_ALIASES
    foreign: ClassVar[dict[str, Neutral]] = REFUSED | {"prompt": (), "suffix": ("",)}

    def check_supported(self) -> None:
        super().check_supported()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs is for logprobs=true only", param="top_logprobs")
        self.check_named_tokens(bool(self.logprobs))
        self.check_conversation()

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
    text, token_ids = await serving.front.tokenize_chat(
        body.conversation(body.messages, serving.config.allow_request_templates),
        bool(body.add_special_tokens),
        None if body.truncate_prompt_tokens is None else serving.max_tokenize_bytes,
    )
    prompt = run.Prompt(text, token_ids).truncated(body, params, serving)
    await run.start(serving, context, [prompt], params, body.cache_salt, body.priority or 0)
    answer = _ChatAnswer(serving, context, params, body)
    if body.stream:
        return await event_stream(answer.chunks())
    [output] = await run.finish(serving, context)
    return json_response(answer.whole(output))


class _ChatAnswer:
    """Writes one request's answer."""

    def __init__(self, serving: Serving, context: RequestContext, params: SamplingParams, body: ChatBody) -> None:
        self._serving = serving
        self._context = context
        self._body = body
        self._num_top = params.logprobs if params.logprob_token_ids is None else ALL_TOKENS
        self._names = TokenNames(serving.front.tokenizer, bool(body.return_tokens_as_token_ids))
        self._id = f"chatcmpl-{context.request_id}"
        self._created = int(time.time())
        self._has_role = [False] * params.n
        self._echoed = _echoed(body) if body.echo else ""

    def whole(self, output: RequestOutput) -> ChatCompletion:
        scored = output.prompt_logprobs
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._serving.model_name,
            choices=[self._choice(sequence) for sequence in output.outputs],
            usage=Usage.of([output]),
            system_fingerprint=self._serving.system_fingerprint,
            prompt_logprobs=UNSET if scored is None else prompt_logprobs(scored),
            prompt_token_ids=output.prompt_token_ids if self._body.return_token_ids else UNSET,
        )

    async def chunks(self) -> AsyncIterator[list[ChatChunk]]:
        usage: Usage | UnsetType | None = None if self._body.wants_usage_chunk else UNSET
        async for gained in run.deltas(self._serving, self._context):
            if self._body.wants_usage_always:
                usage = self._usage()
            yield [self._chunk([choice], usage) for delta in gained.deltas for choice in self._chunk_choices(delta)]
        if self._body.wants_usage_chunk:
            yield [self._chunk([], self._usage())]

    def _choice(self, sequence: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            sequence.index,
            ChatMessage(self._echoed + sequence.text),
            self._logprobs(sequence.logprobs),
            sequence.finish_reason,
            sequence.stop_reason,
            sequence.token_ids if self._body.return_token_ids else UNSET,
        )

    def _usage(self) -> Usage:
        return Usage.of([generation.output for generation in self._context.generations])

    def _chunk(self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None) -> ChatChunk:
        model, fingerprint = self._serving.model_name, self._serving.system_fingerprint
        chunk = ChatChunk(self._id, self._created, model, choices, fingerprint, usage)
        if self._body.return_token_ids and choices and choices[0].delta.role:
            chunk.prompt_token_ids = self._context.generations[0].output.prompt_token_ids
        return chunk

    def _chunk_choices(self, delta: Delta) -> list[ChatChunkChoice]:
        """First the role and what is echoed, then text as it comes, the end last and by itself."""
        choices = []
        if not self._has_role[delta.index]:
            self._has_role[delta.index] = True
            choices.append(ChatChunkChoice(delta.index, ChatDelta("assistant", self._echoed)))
        told_ids = delta.token_ids if self._body.return_token_ids and delta.token_ids else UNSET
        if delta.text or delta.logprobs or told_ids:
            gained = ChatDelta(content=delta.text)
            choices.append(ChatChunkChoice(delta.index, gained, self._logprobs(delta.logprobs), token_ids=told_ids))
        if delta.finish_reason is not None:
            end = ChatChunkChoice(delta.index, ChatDelta(), finish_reason=delta.finish_reason)
            end.stop_reason = delta.stop_reason
            choices.append(end)
        return choices

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
