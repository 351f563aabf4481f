"""From a body and its tokenized prompts to the deltas of their generations: what all endpoints that generate share."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from starlette.requests import Request

from octavo.errors import RequestError
from octavo.metrics.requests import Metrics
from octavo.output_assembler import Delta
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling.admission import check_task
from octavo.server.errors import ApiError
from octavo.server.front import Generation
from octavo.server.openai.body import SamplingBody
from octavo.server.openai.json_body import read_body
from octavo.server.request_context import RequestContext, context_of
from octavo.server.request_limits import check_num_answers
from octavo.server.serving import Serving, serving_of
from octavo.structured_outputs import ReasoningSection, StructuredOutputsParams
from octavo.tokenization.regex_search import automaton_of

Body = TypeVar("Body", bound=SamplingBody)


@dataclass(frozen=True, slots=True)
class Cut:
    """How a prompt is cut that is too long."""

    most: int
    """Tokens that stay; -1 is all that leave room for the answer."""
    keeps_start: bool
    """The start stays, else the end."""

    @classmethod
    def of(cls, body: SamplingBody) -> "Cut | None":
        """As a body asks for it."""
        most = body.truncate_prompt_tokens
        return None if most is None else cls(most, body.truncation_side == "right")


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` is None where token ids were given."""

    text: str | None
    token_ids: list[int]

    def cut(self, cut: Cut | None, params: SamplingParams, serving: Serving) -> "Prompt":
        """The prompt with so many tokens. One that is cut has no text of its own any more."""
        if cut is None:
            return self
        most = cut.most
        if most == -1:
            longest = serving.front.ready.limits.max_model_len
            most = max(longest - (params.max_tokens or 1), 1)
        if len(self.token_ids) <= most:
            return self
        return Prompt(None, self.token_ids[:most] if cut.keeps_start else self.token_ids[len(self.token_ids) - most :])


class PromptDeltas(NamedTuple):
    """What one prompt's sequences gained in a step."""

    prompt_index: int
    deltas: list[Delta]


async def read(request: Request, kind: type[Body]) -> tuple[Body, SamplingParams]:
    """A request's body, and what it asks of sampling.

    Raises:
        ApiError: it is wrong, too large or asks for what cannot be done.
        pydantic.ValidationError: a field is wrong.
        RequestError: a value is out of its range.
    """
    serving = serving_of(request)
    body = await read_body(request, kind, kind.aliases)
    context_of(request).model = body.model
    serving.check_model(body.model)
    check_task("generate", serving.front.ready.limits.capabilities)
    body.check_supported()
    check_num_answers(serving.config, n=body.num_answers, best_of=body.best_of or 1)
    return body, serving.sampling_defaults.applied(body.params(), body.given_params)


def _check_served(serving: Serving, params: SamplingParams, priority: int) -> None:
    """Refuse regexes that cannot be followed, and a priority that the server's policy has no use for.

    Raises:
        ApiError: the message names the field.
    """
    checks: dict[str, Callable[[], object]] = {
        "stop_regex": lambda: automaton_of(params.stop_regexes),
        "priority": lambda: serving.front.client.check_priority(priority),
    }
    for field, check in checks.items():
        try:
            check()
        except RequestError as error:
            raise ApiError(400, str(error), param=field) from error


async def check_structure(serving: Serving, asked: StructuredOutputsParams, field: str) -> None:
    """Refuse what no answer can be held to here.

    Args:
        field: of the request, which asks for it.

    Raises:
        ApiError: the message names the field.
    """
    if not serving.front.ready.limits.capabilities.grammars:
        raise ApiError(400, f"{field}: this model has no end-of-sequence token to end with", param=field)
    try:
        await serving.front.grammars.check(asked.grammar_of_output(), serving.grammar_bounds)
    except RequestError as error:
        raise ApiError(400, f"{field}: {error}", param=field) from error


async def start(
    serving: Serving,
    context: RequestContext,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    cache_salt: str | None,
    priority: int = 0,
    *,
    reasoning: ReasoningSection | None = None,
    kept_specials: Collection[str] = (),
    prediction: Sequence[int] = (),
) -> None:
    """Hand all prompts to the engine, or none where one is refused.

    Args:
        reasoning: what may come before that which answers conform to.
        kept_specials: special tokens that stay in the answers' texts.
        prediction: tokens that answers may resemble.

    Raises:
        RequestError: a prompt could never run.
        EngineError: the engine is dead.
        ApiError: a prompt would wait for too long.
    """
    _check_served(serving, params, priority)
    for prompt in prompts:
        serving.front.check(prompt.token_ids, params)
        await asyncio.sleep(0)  # others have their turn between two of many prompts
    limit_s = serving.config.max_queue_time
    if limit_s is not None:
        check_wait(serving, [prompt.token_ids for prompt in prompts], limit_s, priority)
    prepared = await serving.front.prepare(params)
    for prompt in prompts:
        serving.metrics.note_start(params)
        generation = serving.front.generate(
            prompt.text,
            prompt.token_ids,
            prepared,
            context.tenant,
            cache_salt,
            start_within_s=limit_s,
            reasoning=reasoning,
            kept_specials=kept_specials,
            priority=priority,
            prediction=prediction,
        )
        await context.hold(generation)
        await asyncio.sleep(0)


def check_wait(serving: Serving, prompts: Sequence[list[int]], limit_s: float, priority: int = 0) -> None:
    """Refuse prompts of which one would wait for too long, and tell when to come again.

    Raises:
        ApiError: with status 429.
    """
    now_s, client = time.monotonic(), serving.front.client
    wait_s = max(client.expected_wait_s(now_s, len(token_ids), priority) for token_ids in prompts)
    if wait_s > limit_s:
        raise ApiError(
            429,
            f"the request would begin in about {math.ceil(wait_s)} s, more than --max-queue-time ({limit_s:g} s) "
            "allows: try again later",
            code="queue_time_exceeded",
            headers={"retry-after": str(math.ceil(wait_s - limit_s))},
        )


async def deltas(serving: Serving, context: RequestContext) -> AsyncIterator[PromptDeltas]:
    """What the request's generations gain, as it comes, until all are over.

    Raises:
        OctavoError: the engine refused one or died.
    """
    streams = [
        _deltas_of_one(index, generation, serving.metrics, context.arrival_s)
        for index, generation in enumerate(context.generations)
    ]
    async for item in streams[0] if len(streams) == 1 else _merged(streams):
        yield item


async def finish(serving: Serving, context: RequestContext) -> list[RequestOutput]:
    """The whole outputs, once all generations are over.

    Raises:
        OctavoError: the engine refused one or died.
    """
    async for _ in deltas(serving, context):
        pass
    return [generation.output for generation in context.generations]


async def _deltas_of_one(
    index: int, generation: Generation, metrics: Metrics, arrival_s: float
) -> AsyncIterator[PromptDeltas]:
    last_s: float | None = None
    async for deltas in generation.deltas():
        now_s = time.monotonic()
        if last_s is None:
            metrics.note_first_token(len(generation.output.prompt_token_ids), arrival_s)
        metrics.note_deltas(deltas, None if last_s is None else now_s - last_s)
        last_s = now_s
        yield PromptDeltas(index, deltas)


async def _merged(streams: Sequence[AsyncIterator[PromptDeltas]]) -> AsyncIterator[PromptDeltas]:
    """The items of several streams as they come, a task for each; the first error ends them all. No stream gets ahead
    of whoever takes the items."""
    queue: asyncio.Queue[PromptDeltas | Exception | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(stream: AsyncIterator[PromptDeltas]) -> None:
        try:
            async for item in stream:
                await queue.put(item)
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    num_left = len(tasks)
    try:
        while num_left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
