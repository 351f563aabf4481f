"""Scoring pairs of texts by the model's own way: what /score and /rerank share."""

import asyncio
import sys
from collections.abc import Sequence

from octavo.pooling import PoolingParams, likeness, numbers
from octavo.server.errors import ApiError
from octavo.server.openai import pooled_run
from octavo.server.openai.pooled_run import PooledPrompt
from octavo.server.openai.pooling_fields import PoolingFields
from octavo.server.request_context import RequestContext
from octavo.server.request_limits import check_num_inputs
from octavo.server.serving import Serving
from octavo.tokenization.score_prompts import scoring_method


async def scores(
    serving: Serving,
    context: RequestContext,
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    field: str,
    use_activation: bool | None = None,
) -> list[float]:
    """The score of each pair.

    Args:
        field: the body's that has the second texts, for errors.

    Raises:
        RequestError, EngineError, ApiError: as `pooled_run.pooled`, or the model cannot score.
    """
    check_num_inputs(serving.config, field, len(pairs))
    method = scoring_method(serving.front.ready.limits.capabilities)
    if method == "likeness":
        return await _by_likeness(serving, context, pairs, body)
    _check_fields(body, is_pair=method == "classes")
    if method == "classes":
        prompts = [await _pair(serving, *pair, body) for pair in pairs]
        asked = PoolingParams(use_activation=use_activation)
        found = await pooled_run.pooled(serving, context, prompts, "classify", asked, body.cache_salt)
    else:
        labels = serving.front.yes_no.label_token_ids
        prompts = [await _question(serving, *pair) for pair in pairs]
        asked = PoolingParams(use_activation=use_activation, label_token_ids=labels)
        found = await pooled_run.pooled(serving, context, prompts, "score", asked, body.cache_salt)
    return [numbers(each)[-1] for each in found]


def _check_fields(body: PoolingFields, is_pair: bool) -> None:
    """Refuse what says how one text is read, where it is put together with another.

    Raises:
        ApiError: the message names the field.
    """
    told = {
        "add_special_tokens": body.add_special_tokens is False and "the tokens around the texts are part of the prompt",
        "truncation_side": body.truncation_side == "left" and is_pair and "of a pair the second text's end is cut",
        "truncate_prompt_tokens": body.truncate_prompt_tokens is not None
        and not is_pair
        and "it would cut the question that a language model is asked; shorten the texts",
    }
    for field, why in told.items():
        if why:
            raise ApiError(400, f"{field} cannot be had with this model: {why}", param=field)


async def _by_likeness(
    serving: Serving, context: RequestContext, pairs: Sequence[tuple[str, str]], body: PoolingFields
) -> list[float]:
    """Each text is embedded once."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    prompts = [await pooled_run.tokenized_one(serving, text, body) for text in texts]
    found = await pooled_run.pooled(serving, context, prompts, "embed", PoolingParams(), body.cache_salt)
    vectors = dict(zip(texts, found, strict=True))
    return await asyncio.to_thread(lambda: [likeness(vectors[one], vectors[other]) for one, other in pairs])


async def _pair(serving: Serving, first: str, second: str, body: PoolingFields) -> PooledPrompt:
    most, cap = pooled_run.num_kept(serving, body), serving.max_tokenize_bytes
    token_ids = await serving.front.tokenize_within(
        first, sys.maxsize if most is None else most, second, keeps_end=False, max_bytes=cap
    )
    return PooledPrompt(None, token_ids)


async def _question(serving: Serving, query: str, document: str) -> PooledPrompt:
    text, token_ids = await serving.front.tokenize_chat(serving.front.yes_no.question(query, document), num_output=0)
    return PooledPrompt(text, token_ids)
