"""POST /v1/embeddings: a vector of each input."""

import base64
import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from octavo.pooling import PoolingParams, numbers
from octavo.server.openai import pooled_run
from octavo.server.openai.body import MAX_WHOLE, Whole
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.pooled_answers import Embedding, EmbeddingList, PooledUsage, pooled_response
from octavo.server.openai.pooling_fields import Inputs, PoolingFields, inputs_of
from octavo.server.request_context import context_of
from octavo.server.serving import serving_of

router = APIRouter()


class EmbeddingBody(PoolingFields):
    """What is embedded, and in which form the vectors come."""

    input: Inputs = Field(description="a text, token ids, or a list of either")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="numbers, the default, or the base64 of their bytes: float32, the lowest byte first"
    )
    dimensions: Whole | None = Field(
        None, ge=1, le=MAX_WHOLE, description="only the first so many numbers of a vector, normalised again"
    )
    normalize: bool | None = Field(
        None, description="divide a vector by its length; by default as the model's files say, else so"
    )


@router.post(
    "/v1/embeddings", summary="Embed texts", openapi_extra=takes(EmbeddingBody), responses=gives(EmbeddingList)
)
async def create_embeddings(request: Request) -> Response:
    """The vectors of all inputs, in their order."""
    serving, context = serving_of(request), context_of(request)
    body = await pooled_run.read(request, EmbeddingBody)
    prompts = await pooled_run.tokenized(serving, inputs_of(body.input), body, "input")
    asked = PoolingParams(dimensions=body.dimensions, normalize=body.normalize)
    vectors = await pooled_run.pooled(serving, context, prompts, "embed", asked, body.cache_salt)
    created = int(time.time())

    def answer() -> EmbeddingList:
        written = map(_base64 if body.encoding_format == "base64" else _numbers, vectors)
        data = [Embedding(index, vector) for index, vector in enumerate(written)]
        usage = PooledUsage.of([generation.output for generation in context.generations])
        return EmbeddingList(f"embd-{context.request_id}", created, serving.model_name, data, usage)

    return await pooled_response(answer)


def _numbers(vector: bytes) -> list[float] | str:
    return numbers(vector).tolist()


def _base64(vector: bytes) -> list[float] | str:
    return base64.b64encode(vector).decode()
