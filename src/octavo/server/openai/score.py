"""POST /score and /v1/score: how well texts go together, as vLLM tells it."""

import time
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from octavo.server.errors import ApiError
from octavo.server.openai import pooled_run
from octavo.server.openai.body import FirstError, Text
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.pooled_answers import PooledUsage, Score, ScoreList, pooled_response
from octavo.server.openai.pooling_fields import PoolingFields
from octavo.server.openai.scoring import scores
from octavo.server.request_context import context_of
from octavo.server.serving import serving_of
from octavo.tokenization.score_prompts import pairs_of

Texts = Text | Annotated[list[Text], FirstError()]
NAMES = (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2"))
"""What the two sides are called; one of these is given."""
router = APIRouter()


class ScoreBody(PoolingFields):
    """Two sides of pairs: one text and any number of others, or as many on both sides."""

    text_1: Texts | None = Field(None, description="a query, or several")
    text_2: Texts | None = Field(None, description="what each query is compared with")
    queries: Texts | None = Field(None, description="as text_1")
    documents: Texts | None = Field(None, description="as text_2")
    data_1: Texts | None = Field(None, description="as text_1")
    data_2: Texts | None = Field(None, description="as text_2")
    use_activation: bool | None = Field(None, description="probabilities, the default, or logits as they are")

    def sides(self) -> tuple[str, list[str], list[str]]:
        """The second side's name, and the texts of both.

        Raises:
            ApiError: not exactly one of the ways to give them is taken.
        """
        given = [names for names in NAMES if any(getattr(self, name) is not None for name in names)]
        if len(given) != 1 or any(getattr(self, name) is None for name in given[0]):
            raise ApiError(400, "send text_1 and text_2, or queries and documents", param="text_1")
        first, second = ([each] if isinstance(each, str) else each for each in map(self._side, given[0]))
        return given[0][1], first, second

    def _side(self, name: str) -> str | list[str]:
        side: str | list[str] = getattr(self, name)
        return side


@router.post("/score", summary="Score texts", openapi_extra=takes(ScoreBody), responses=gives(ScoreList))
@router.post("/v1/score", summary="Score texts", openapi_extra=takes(ScoreBody), responses=gives(ScoreList))
async def create_scores(request: Request) -> Response:
    """A score of each pair, in their order."""
    serving, context = serving_of(request), context_of(request)
    body = await pooled_run.read(request, ScoreBody)
    field, first, second = body.sides()
    found = await scores(serving, context, pairs_of(first, second), body, field, body.use_activation)
    created = int(time.time())

    def answer() -> ScoreList:
        data = [Score(index, score) for index, score in enumerate(found)]
        usage = PooledUsage.of([generation.output for generation in context.generations])
        return ScoreList(f"score-{context.request_id}", created, serving.model_name, data, usage)

    return await pooled_response(answer)
