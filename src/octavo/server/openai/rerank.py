"""POST /rerank, /v1/rerank and /v2/rerank: documents in the order in which they answer a query, as Jina and Cohere have
it."""

from typing import Annotated, ClassVar

from fastapi import APIRouter, Request
from msgspec import UNSET
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from octavo.server.errors import ApiError
from octavo.server.openai import pooled_run
from octavo.server.openai.body import MAX_WHOLE, FirstError, Text, Whole
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.foreign_fields import Neutral
from octavo.server.openai.pooled_answers import PooledUsage, Ranked, RankedDocument, Ranking, pooled_response
from octavo.server.openai.pooling_fields import FOREIGN, PoolingFields
from octavo.server.openai.scoring import scores
from octavo.server.request_context import context_of
from octavo.server.serving import serving_of

router = APIRouter()


class DocumentText(BaseModel):
    """A document in an object."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: Text


class RerankBody(PoolingFields):
    """A query and the documents that may answer it."""

    query: Text | DocumentText = Field(description='a text, or {"text": ...}')
    documents: Annotated[list[Text | DocumentText], FirstError()] = Field(description='texts, or {"text": ...}')
    top_n: Whole | None = Field(None, ge=1, le=MAX_WHOLE, description="only the best so many; all by default")
    return_documents: bool | None = Field(None, description="whether the answer has the documents; the default")

    foreign: ClassVar[dict[str, Neutral]] = FOREIGN | {
        "max_chunks_per_doc": (),
        "max_tokens_per_doc": (),
        "rank_fields": ([],),
    }


@router.post("/rerank", summary="Rank documents", openapi_extra=takes(RerankBody), responses=gives(Ranking))
@router.post("/v1/rerank", summary="Rank documents", openapi_extra=takes(RerankBody), responses=gives(Ranking))
@router.post("/v2/rerank", summary="Rank documents", openapi_extra=takes(RerankBody), responses=gives(Ranking))
async def rerank(request: Request) -> Response:
    """The documents, the best first; of equals the first."""
    serving, context = serving_of(request), context_of(request)
    body = await pooled_run.read(request, RerankBody)
    documents = [_text(document) for document in body.documents]
    if not documents:
        raise ApiError(400, "documents is an empty list", param="documents")
    query = _text(body.query)
    found = await scores(serving, context, [(query, document) for document in documents], body, "documents")

    def answer() -> Ranking:
        order = sorted(range(len(found)), key=lambda index: -found[index])[: body.top_n]
        returns_text = body.return_documents is not False
        results = [
            Ranked(index, found[index], RankedDocument(documents[index]) if returns_text else UNSET) for index in order
        ]
        usage = PooledUsage.of([generation.output for generation in context.generations])
        return Ranking(f"rerank-{context.request_id}", serving.model_name, results, usage)

    return await pooled_response(answer)


def _text(document: str | DocumentText) -> str:
    return document if isinstance(document, str) else document.text
