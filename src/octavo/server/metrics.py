"""/metrics: what `octavo.metrics` keeps, in Prometheus' text format."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

router = APIRouter()


@router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Everything in the registry."""
    registry = request.app.state.serving.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
