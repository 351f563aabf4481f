"""GET /v1/models and /v1/models/{id}: the one model that is served, under each of its names."""

from typing import Any

from fastapi import APIRouter, Request

from octavo.server.serving import Serving, serving_of

router = APIRouter()


@router.get("/v1/models", summary="List the models")
async def list_models(request: Request) -> dict[str, Any]:
    """All that is served: one model, once for each name, that of answers first."""
    serving = serving_of(request)
    return {"object": "list", "data": [_model(serving, name) for name in serving.model_names]}


@router.get("/v1/models/{model:path}", summary="Describe a model")
async def describe_model(model: str, request: Request) -> dict[str, Any]:
    """The served model, under one of its names or what --model says."""
    serving = serving_of(request)
    serving.check_model(model)
    return _model(serving, model if model in serving.model_names else serving.model_name)


def _model(serving: Serving, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": serving.created,
        "owned_by": "octavo",
        "max_model_len": serving.front.longest_sequence,
    }
