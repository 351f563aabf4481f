"""What endpoints that pool send back, field by field as OpenAI, Jina and vLLM have it."""

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from octavo.outputs import RequestOutput
from octavo.server.openai.answers import PromptTokensDetails


class PooledUsage(Struct):
    """Tokens of a request's inputs."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, outputs: list[RequestOutput]) -> "PooledUsage":
        count = sum(len(output.prompt_token_ids) for output in outputs)
        return cls(count, count, PromptTokensDetails(sum(output.num_cached_tokens for output in outputs)))


class Embedding(Struct, tag_field="object", tag="embedding"):
    index: int
    embedding: list[float] | str
    """The numbers, or the base64 of their bytes: float32, the lowest byte first."""


class EmbeddingList(Struct, tag_field="object", tag="list"):
    id: str
    created: int
    model: str
    data: list[Embedding]
    usage: PooledUsage


class RankedDocument(Struct):
    text: str


class Ranked(Struct):
    index: int
    """The document's place in the request."""
    relevance_score: float
    document: RankedDocument | UnsetType = UNSET


class Ranking(Struct):
    """The best document first."""

    id: str
    model: str
    results: list[Ranked]
    usage: PooledUsage


class Score(Struct, tag_field="object", tag="score"):
    index: int
    score: float


class ScoreList(Struct, tag_field="object", tag="list"):
    id: str
    created: int
    model: str
    data: list[Score]
    usage: PooledUsage


class Classification(Struct):
    index: int
    label: str
    """The likeliest class."""
    probs: list[float]
    num_classes: int


class ClassificationList(Struct, tag_field="object", tag="list"):
    id: str
    created: int
    model: str
    data: list[Classification]
    usage: PooledUsage


PooledAnswer = EmbeddingList | Ranking | ScoreList | ClassificationList


async def pooled_response(answer: Callable[[], PooledAnswer]) -> Response:
    """An answer that is made and written in a thread: it may hold a million numbers."""
    content = await asyncio.to_thread(lambda: msgspec.json.encode(answer()))
    return Response(content, media_type="application/json")
