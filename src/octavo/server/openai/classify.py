"""POST /classify: how likely each class of the model's head is, as vLLM tells it."""

import time

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from octavo.pooling import PoolingParams, numbers
from octavo.server.openai import pooled_run
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.pooled_answers import Classification, ClassificationList, PooledUsage, pooled_response
from octavo.server.openai.pooling_fields import Inputs, PoolingFields, inputs_of
from octavo.server.request_context import context_of
from octavo.server.serving import serving_of

router = APIRouter()


class ClassifyBody(PoolingFields):
    """What is classified."""

    input: Inputs = Field(description="a text, token ids, or a list of either")
    use_activation: bool | None = Field(None, description="probabilities, the default, or logits as they are")


@router.post(
    "/classify", summary="Classify texts", openapi_extra=takes(ClassifyBody), responses=gives(ClassificationList)
)
async def classify(request: Request) -> Response:
    """The classes of all inputs, in their order."""
    serving, context = serving_of(request), context_of(request)
    body = await pooled_run.read(request, ClassifyBody)
    prompts = await pooled_run.tokenized(serving, inputs_of(body.input), body, "input")
    asked = PoolingParams(use_activation=body.use_activation)
    found = await pooled_run.pooled(serving, context, prompts, "classify", asked, body.cache_salt)
    labels, created = serving.front.ready.limits.capabilities.pooling.labels, int(time.time())

    def answer() -> ClassificationList:
        data = [_classification(index, numbers(each).tolist(), labels) for index, each in enumerate(found)]
        usage = PooledUsage.of([generation.output for generation in context.generations])
        return ClassificationList(f"classify-{context.request_id}", created, serving.model_name, data, usage)

    return await pooled_response(answer)


def _classification(index: int, probs: list[float], labels: tuple[str, ...]) -> Classification:
    return Classification(index, labels[probs.index(max(probs))], probs, len(probs))
