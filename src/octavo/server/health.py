"""/live, /ready and /health: is the process up, would it take a request now, is the engine getting on."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from octavo.knobs import flag
from octavo.server.openai.answers import Unavailable, Well
from octavo.server.openai.contract import gives
from octavo.server.serving import serving_of

router = APIRouter()


@router.get("/live", summary="The process answers", responses=gives(Well, errors=()))
async def live() -> JSONResponse:
    """Always well: the answer is the news."""
    return _answer(None)


@router.get("/ready", summary="New requests are taken", responses=gives(Well, errors=(503,), error=Unavailable))
async def ready(request: Request) -> JSONResponse:
    """Well while the engine is ready and gets on, and the server is not shutting down."""
    return _answer(_why_not_ready(request) or _why_stuck(request, "ready_timeout"))


@router.get(
    "/health",
    summary="The engine is getting on with its work",
    responses=gives(Well, errors=(401, 503), error=Unavailable),
)
async def health(request: Request) -> JSONResponse:
    """Well while new requests are taken and those there are make progress, however slow."""
    return _answer(_why_not_ready(request) or _why_stuck(request, "step_timeout"))


def _why_not_ready(request: Request) -> str | None:
    if serving_of(request).front.client.failure is not None:
        return "the engine has stopped"
    if request.app.state.is_draining:
        return "the server is shutting down"
    return None


def _why_stuck(request: Request, knob: str) -> str | None:
    """Requests are open, and the engine has said nothing of any step for longer than a knob of seconds says."""
    serving = serving_of(request)
    client, limit_s = serving.front.client, getattr(serving.config, knob)
    silent_s = client.silent_s
    if silent_s <= limit_s:
        return None
    return f"{client.num_open} requests are open and no step has ended for {silent_s:.0f} s ({flag(knob)})"


def _answer(problem: str | None) -> JSONResponse:
    if problem is None:
        return JSONResponse(msgspec.to_builtins(Well()))
    return JSONResponse(msgspec.to_builtins(Unavailable(problem)), 503, {"retry-after": "1"})
