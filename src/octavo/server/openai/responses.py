"""POST /v1/responses: OpenAI's newer API of conversations, of which this server keeps nothing between two requests."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.sampling_params import SamplingParams
from octavo.server.answer_tokens import AnswerTokens
from octavo.server.conversing import Answers, Gained, Turn, begin, prompt_of
from octavo.server.errors import ApiError, api_error
from octavo.server.openai.answers import ContentLogprob
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.event_stream import EventForm, event_stream, named_event
from octavo.server.openai.json_body import read_body
from octavo.server.openai.logprobs import PositionLogprobs, TokenNames, chat_logprobs
from octavo.server.openai.responses_body import ResponsesBody
from octavo.server.openai.responses_events import ResponseCreated, ResponseEvent, StreamError
from octavo.server.openai.responses_items import InputTokenCount, ResponseObject, ResponseUsage
from octavo.server.openai.responses_tools import echoed
from octavo.server.openai.responses_writer import ResponseWriter
from octavo.server.request_context import RequestContext, context_of
from octavo.server.serving import Serving, serving_of

router = APIRouter()


def _error_event(error: Exception) -> bytes:
    told = api_error(error).body().error
    return named_event(StreamError(0, told.message, told.code, told.param))


EVENTS = EventForm(named_event, _error_event)
"""As the events of a response are written."""


@router.post(
    "/v1/responses",
    summary="Answer a conversation, in the form of OpenAI's Responses",
    openapi_extra=takes(ResponsesBody),
    responses=gives(ResponseObject, ResponseCreated, are_named=True),
)
async def create_response(request: Request) -> Response:
    """One answer to a conversation, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    body = await _read(request)
    params = serving.sampling_defaults.applied(body.params(), body.given_params)
    turn = _turn(serving, body, params)
    answer = _ResponseAnswer(serving, context, body, turn, await begin(serving, context, turn))
    if body.stream:
        return await event_stream(answer.events(), EVENTS)
    return Response(msgspec.json.encode(await answer.whole()), media_type="application/json")


@router.post(
    "/v1/responses/input_tokens",
    summary="Count the tokens of a response's prompt",
    openapi_extra=takes(ResponsesBody),
    responses=gives(InputTokenCount),
)
async def count_input_tokens(request: Request) -> Response:
    """Of the prompt that /v1/responses would make of the same body."""
    serving = serving_of(request)
    body = await _read(request)
    prompt = await prompt_of(serving, _turn(serving, body, body.params()))
    return Response(msgspec.json.encode(InputTokenCount(len(prompt.token_ids))), media_type="application/json")


@router.post("/v1/responses/compact", include_in_schema=False)
async def compact_response() -> Response:
    """Conversations are not made shorter here.

    Raises:
        ApiError: always.
    """
    raise ApiError(404, "this server compacts no conversations: leave out of `input` what it is to forget")


@router.get("/v1/responses/{response_id}", include_in_schema=False)
@router.delete("/v1/responses/{response_id}", include_in_schema=False)
@router.post("/v1/responses/{response_id}/cancel", include_in_schema=False)
@router.get("/v1/responses/{response_id}/input_items", include_in_schema=False)
async def find_response(response_id: str) -> Response:
    """There is none to be found.

    Raises:
        ApiError: always.
    """
    raise ApiError(
        404,
        f"there is no response {response_id[:100]!r}: this server stores none, all of it was in the answer",
        code="response_not_found",
        param="response_id",
    )


async def _read(request: Request) -> ResponsesBody:
    body = await read_body(request, ResponsesBody)
    context_of(request).model = body.model
    serving_of(request).check_model(body.model)
    body.check_supported()
    return body


def _turn(serving: Serving, body: ResponsesBody, params: SamplingParams) -> Turn:
    asked = body.structured()
    return Turn(
        conversation=body.as_conversation(serving.config.allow_request_templates),
        params=params,
        use=body.tool_use(),
        reasoning=body.asked_reasoning(serving.front.answer_format.reasoning_end is not None),
        structured_field="text.format" if asked is None else asked.field,
        cache_salt=body.cache_salt,
    )


class _ResponseAnswer:
    """Writes one request's answer."""

    def __init__(
        self, serving: Serving, context: RequestContext, body: ResponsesBody, turn: Turn, answers: Answers
    ) -> None:
        front = serving.front
        self._answers = answers
        self._num_top = turn.params.logprobs
        self._names = TokenNames(front.tokenizer)
        reader = front.answer_format.reader(answers.output.prompt or "", turn.use)
        detokenizer = front.tokenizer.stream(skip_special_tokens=False, continues=True)
        self._tokens = AnswerTokens[PositionLogprobs | None](reader, detokenizer)
        response = _response(f"resp_{context.request_id}", serving.model_name, body, turn)
        self._writer = ResponseWriter(response, body.wants_encrypted_reasoning)

    async def whole(self) -> ResponseObject:
        async for _ in self._written():
            pass
        return self._writer.response

    async def events(self) -> AsyncIterator[list[ResponseEvent]]:
        has_begun = False
        try:
            async for events in self._written():
                has_begun = True
                yield events
        except Exception as error:
            if not has_begun:
                raise
            yield [*self._writer.fail(api_error(error))]

    async def _written(self) -> AsyncIterator[list[ResponseEvent]]:
        """The events that each step makes.

        Raises:
            OctavoError: the engine refused the request or died.
        """
        events = [*self._writer.begin()]
        async for steps in self._answers.gained():
            for gained in steps:
                events += self._write(gained)
            yield events
            events = []

    def _write(self, gained: Gained) -> Iterator[ResponseEvent]:
        delta = gained.delta
        told = self._tokens.push(delta.token_ids, delta.logprobs or [None] * len(delta.token_ids))
        if gained.end_reason is not None:
            told += self._tokens.finish()
        yield from self._writer.write(gained.parts, self._logprobs(told))
        if gained.end_reason is not None:
            usage = ResponseUsage.of(self._answers.output, self._tokens.num_reasoning)
            yield from self._writer.end(gained.end_reason, usage)

    def _logprobs(self, told: Sequence[PositionLogprobs | None]) -> list[ContentLogprob]:
        if self._num_top is None:
            return []
        return chat_logprobs(self._names, [each for each in told if each is not None], self._num_top).content


def _response(response_id: str, model: str, body: ResponsesBody, turn: Turn) -> ResponseObject:
    """Before anything is answered."""
    params = turn.params
    return ResponseObject(
        id=response_id,
        created_at=int(time.time()),
        model=model,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        parallel_tool_calls=turn.use.parallel,
        reasoning={"effort": turn.reasoning.effort, "summary": None},
        temperature=params.temperature,
        top_p=params.top_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        text=body.text_config,
        tool_choice=body.tool_choice or "auto",
        tools=echoed(turn.use),
        top_logprobs=body.top_logprobs or 0,
        truncation=body.truncation or "disabled",
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
    )
