"""Putting the server together."""

from fastapi import FastAPI

from octavo.checkpoints.generation_config import SamplingDefaults
from octavo.config import EngineConfig, ServerConfig
from octavo.knobs import flag, parse_size
from octavo.server import health, metrics
from octavo.server.auth import KeyCheck
from octavo.server.connection import Connection
from octavo.server.errors import install_handlers
from octavo.server.front import Front
from octavo.server.metrics import Metrics
from octavo.server.openai import chat_completions, completions, models
from octavo.server.request_limits import OpenRequestLimit, OpenRequests
from octavo.server.request_log import RequestLog
from octavo.server.serving import Serving


def create_app(
    front: Front, engine: EngineConfig, config: ServerConfig, sampling_defaults: SamplingDefaults | None = None
) -> FastAPI:
    """The HTTP application in front of a connected engine.

    Its state has `serving`, what endpoints work with, and `is_draining`, which turns new work away once it is set.

    Args:
        front: connected.
        engine: what the engine was started with.
        config: the server's own knobs.
        sampling_defaults: for what requests leave out; None are the engine's own.
    """
    app = FastAPI(
        title="Octavo",
        summary="An OpenAI-compatible server of large language models",
        version="0.1.0",
        redirect_slashes=False,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
    )
    open_requests = OpenRequests(config.max_queued_requests)
    app.state.is_draining = False
    app.state.serving = Serving(
        front,
        engine,
        config,
        open_requests,
        Metrics(front.client, open_requests),
        sampling_defaults or SamplingDefaults(),
    )
    for module in (models, chat_completions, completions, health, metrics):
        app.include_router(module.router)
    install_handlers(app)
    _add_layers(app, app.state.serving)
    return app


def _add_layers(app: FastAPI, serving: Serving) -> None:
    """What a request passes on its way in. The last one added is the first that it meets."""
    config = serving.config
    max_body_bytes = parse_size(config.max_body_bytes, 2**40, flag("max_body_bytes"))
    app.add_middleware(Connection, max_body_bytes=max_body_bytes)
    app.add_middleware(OpenRequestLimit, open_requests=serving.open_requests)
    app.add_middleware(KeyCheck, keys=config.api_key)
    app.add_middleware(RequestLog, metrics=serving.metrics, log_prompts=config.log_prompts)
