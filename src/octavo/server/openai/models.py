"""GET /v1/models and /v1/models/{id}: the one model that is served, under each of its names."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from octavo.server.openai.answers import ModelCard, ModelList, json_response
from octavo.server.openai.contract import gives
from octavo.server.serving import Serving, serving_of

router = APIRouter()


@router.get("/v1/models", summary="List the models", responses=gives(ModelList, errors=(401,)))
async def list_models(request: Request) -> Response:
    """All that is served: one model, once for each name, that of answers first."""
    serving = serving_of(request)
    names = serving.model_names
    return json_response(ModelList([_model(serving, name) for name in names], names[0], names[-1]))


@router.get("/v1/models/{model:path}", summary="Describe a model", responses=gives(ModelCard, errors=(401, 404)))
async def describe_model(model: str, request: Request) -> Response:
    """The served model, under one of its names or what --model says."""
    serving = serving_of(request)
    serving.check_model(model)
    return json_response(_model(serving, model if model in serving.model_names else serving.model_name))


def _model(serving: Serving, name: str) -> ModelCard:
    longest = serving.front.longest_sequence
    created_at = datetime.fromtimestamp(serving.created, UTC).isoformat()
    return ModelCard(
        id=name,
        created=serving.created,
        owned_by="octavo",
        max_model_len=longest,
        display_name=name,
        created_at=created_at,
    )
