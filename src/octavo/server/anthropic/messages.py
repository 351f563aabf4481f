"""POST /v1/messages: the next message of a conversation, and /v1/messages/count_tokens: how long a prompt is."""

from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.sampling_params import SamplingParams
from octavo.server.anthropic.answers import (
    Event,
    Message,
    MessageDelta,
    MessageEnd,
    MessageError,
    MessageStart,
    MessageStop,
    MessageUsage,
    StopReason,
    TokenCount,
)
from octavo.server.anthropic.blocks import BlockWriter, blocks_of
from octavo.server.anthropic.body import MessagesBody, PromptBody
from octavo.server.anthropic.conversation import begins_answer, chat_messages
from octavo.server.anthropic.errors import EVENTS
from octavo.server.conversing import Answers, EndReason, Turn, begin, prompt_of
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.json_body import read_body
from octavo.server.request_context import RequestContext, context_of
from octavo.server.serving import Serving, serving_of
from octavo.tokenization.conversation import Conversation

router = APIRouter()
Body = TypeVar("Body", bound=PromptBody)


@router.post(
    "/v1/messages",
    summary="Answer a conversation, in Anthropic's form",
    openapi_extra=takes(MessagesBody),
    responses=gives(Message, Event | MessageError),
)
async def create_message(request: Request) -> Response:
    """One answer to a conversation, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    body = await _read(request, MessagesBody)
    body.check_supported()
    params = serving.sampling_defaults.applied(body.params(), body.given_params)
    answers = await begin(serving, context, _turn(serving, body, params))
    answer = _MessageAnswer(serving, context, answers)
    if body.stream:
        return await event_stream(answer.events(), EVENTS)
    return Response(msgspec.json.encode(await answer.whole()), media_type="application/json")


@router.post(
    "/v1/messages/count_tokens",
    summary="Count a prompt's tokens, in Anthropic's form",
    openapi_extra=takes(PromptBody),
    responses=gives(TokenCount),
)
async def count_tokens(request: Request) -> Response:
    """Of the prompt that /v1/messages would make of the same body."""
    serving = serving_of(request)
    body = await _read(request, PromptBody)
    prompt = await prompt_of(serving, _turn(serving, body, SamplingParams()))
    return Response(msgspec.json.encode(TokenCount(len(prompt.token_ids))), media_type="application/json")


async def _read(request: Request, kind: type[Body]) -> Body:
    body = await read_body(request, kind)
    context_of(request).model = body.model
    serving_of(request).check_model(body.model)
    return body


def _turn(serving: Serving, body: PromptBody, params: SamplingParams) -> Turn:
    continues = begins_answer(body.messages)
    return Turn(
        conversation=Conversation(
            messages=chat_messages(body.system, body.messages),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            variables=body.chat_template_kwargs or {},
        ),
        params=params,
        use=body.tool_use(),
        reasoning=body.reasoning_ask(serving.front.answer_format.reasoning_end is not None),
        structured_field="output_config",
        cache_salt=body.cache_salt,
    )


class _MessageAnswer:
    """Writes one request's answer."""

    def __init__(self, serving: Serving, context: RequestContext, answers: Answers) -> None:
        self._model = serving.model_name
        self._id = f"msg_{context.request_id}"
        self._answers = answers

    async def whole(self) -> Message:
        [answer] = await self._answers.whole()
        end = _end(answer.end_reason, answer.output.stop_reason)
        content = blocks_of(answer.parts)
        return Message(
            self._id,
            self._model,
            content,
            self._usage(),
            stop_reason=end.stop_reason,
            stop_sequence=end.stop_sequence,
        )

    async def events(self) -> AsyncIterator[list[Event]]:
        writer, has_begun = BlockWriter(), False
        async for gained in self._answers.gained():
            events: list[Event] = []
            if not has_begun:
                has_begun = True
                events.append(MessageStart(Message(self._id, self._model, [], self._usage())))
            for each in gained:
                events += writer.write(each.parts)
                if each.end_reason is not None:
                    end = _end(each.end_reason, each.delta.stop_reason)
                    events += [*writer.end(), MessageDelta(end, self._usage()), MessageStop()]
            yield events

    def _usage(self) -> MessageUsage:
        output = self._answers.output
        num_cached = output.metrics.memory.num_cached_tokens
        num_generated = sum(len(sequence.token_ids) for sequence in output.outputs)
        return MessageUsage(len(output.prompt_token_ids) - num_cached, num_generated, num_cached)


def _end(reason: EndReason | None, stop: int | str | None) -> MessageEnd:
    told: StopReason
    match reason:
        case "tool_calls":
            told = "tool_use"
        case "length":
            told = "max_tokens"
        case _:
            told = "stop_sequence" if isinstance(stop, str) else "end_turn"
    return MessageEnd(told, stop if told == "stop_sequence" and isinstance(stop, str) else None)
