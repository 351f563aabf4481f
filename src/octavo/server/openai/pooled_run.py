"""From a body's texts to the numbers that are pooled of them: what all endpoints that pool share."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from starlette.requests import Request

from octavo.errors import RequestError
from octavo.outputs import RequestOutput
from octavo.pooling import NOTHING_SAMPLED, PoolingParams, PoolingTask
from octavo.scheduling.messages import EngineRequest
from octavo.server.errors import ApiError
from octavo.server.openai.json_body import read_body
from octavo.server.openai.pooling_fields import PoolingFields
from octavo.server.openai.run import check_wait
from octavo.server.request_context import RequestContext, context_of
from octavo.server.request_limits import check_num_inputs
from octavo.server.serving import Serving, serving_of

Body = TypeVar("Body", bound=PoolingFields)


class PooledPrompt(NamedTuple):
    """`text` is None where token ids were given."""

    text: str | None
    token_ids: list[int]


async def read(request: Request, kind: type[Body]) -> Body:
    """A request's body.

    Raises:
        ApiError: it is wrong, too large or asks for what cannot be done.
        pydantic.ValidationError: a field is wrong.
    """
    body = await read_body(request, kind)
    context_of(request).model = body.model
    serving_of(request).check_model(body.model)
    body.check_supported()
    return body


async def tokenized(
    serving: Serving, given: Sequence[str | list[int]], body: PoolingFields, field: str
) -> list[PooledPrompt]:
    """Texts and token ids as prompts, cut where the body says so.

    Args:
        field: the body's, that they are from.

    Raises:
        ApiError: there are none, or too many.
        RequestError: one of them is too long for the model, or no valid Unicode.
    """
    if not given:
        raise ApiError(400, f"{field} is an empty list", param=field)
    check_num_inputs(serving.config, field, len(given))
    return [await tokenized_one(serving, each, body) for each in given]


async def tokenized_one(serving: Serving, given: str | list[int], body: PoolingFields) -> PooledPrompt:
    """As `tokenized`, of one of them."""
    most, keeps_end = num_kept(serving, body), body.truncation_side != "right"
    adds_special = body.add_special_tokens is not False
    if isinstance(given, str):
        if most is None:
            return PooledPrompt(given, await serving.front.tokenize(given, adds_special, num_output=0))
        cap = serving.max_tokenize_bytes
        if adds_special:
            token_ids = await serving.front.tokenize_within(given, most, keeps_end=keeps_end, max_bytes=cap)
            return PooledPrompt(given, token_ids)
        given = await serving.front.tokenize(given, add_special_tokens=False, max_bytes=cap)
    if most is None or len(given) <= most:
        return PooledPrompt(None, given)
    return PooledPrompt(None, given[len(given) - most :] if keeps_end else given[:most])


def num_kept(serving: Serving, body: PoolingFields) -> int | None:
    """Tokens of a prompt that are kept at most.

    Raises:
        ApiError: none would be.
    """
    most = body.truncate_prompt_tokens
    if most == 0:
        raise ApiError(400, "truncate_prompt_tokens is 0: nothing would be left", param="truncate_prompt_tokens")
    return serving.front.ready.limits.max_model_len if most == -1 else most


async def pooled(
    serving: Serving,
    context: RequestContext,
    prompts: Sequence[PooledPrompt],
    task: PoolingTask,
    asked: PoolingParams,
    cache_salt: str | None,
) -> list[bytes]:
    """What is pooled of each prompt. All are handed to the engine, or none where one is refused.

    Raises:
        RequestError: a prompt could never run; or the engine refused or failed one.
        EngineError: the engine is dead.
        ApiError: a prompt would wait for too long.
    """
    requests = []
    for number, prompt in enumerate(prompts):
        request = EngineRequest(
            "",
            prompt.token_ids,
            NOTHING_SAMPLED,
            time.monotonic(),
            tenant=context.tenant,
            cache_salt=cache_salt,
            task=task,
            pooling=asked,
        )
        try:
            serving.front.check_pooled(request)
        except RequestError as error:
            raise type(error)(f"input {number}: {error}" if len(prompts) > 1 else str(error)) from error
        requests.append(request)
        await asyncio.sleep(0)  # others have their turn between two of many prompts
    limit_s = serving.config.max_queue_time
    if limit_s is not None:
        check_wait(serving, [prompt.token_ids for prompt in prompts], limit_s)
    generations = []
    for prompt, request in zip(prompts, requests, strict=True):
        generations.append(serving.front.pool(request, prompt.text, limit_s))
        await context.hold(generations[-1])
        await asyncio.sleep(0)
    for generation in generations:
        async for _ in generation.deltas():
            pass
        serving.metrics.note_pooled(len(generation.output.prompt_token_ids))
    return [_numbers(generation.output) for generation in generations]


def _numbers(output: RequestOutput) -> bytes:
    numbers = output.outputs[0].pooled
    if numbers is None:
        raise RequestError("the request was aborted")
    return numbers
