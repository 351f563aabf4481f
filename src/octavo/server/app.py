"""Putting the server together."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from octavo import __version__
from octavo.checkpoints.generation_config import SamplingDefaults
from octavo.config import EngineConfig
from octavo.knobs import flag, parse_size
from octavo.metrics.requests import Metrics
from octavo.server import health, metrics
from octavo.server.anthropic import messages
from octavo.server.anthropic.body import MessagesBody, PromptBody
from octavo.server.anthropic.errors import error_event
from octavo.server.auth import KeyCheck
from octavo.server.connection import BodyRoom, Connection
from octavo.server.errors import install_handlers
from octavo.server.expectation import Expectation
from octavo.server.front import Front
from octavo.server.openai import (
    chat_completions,
    classify,
    completions,
    embeddings,
    models,
    rerank,
    responses,
    score,
    tokenization,
)
from octavo.server.openai.contract import describe
from octavo.server.openai.responses_body import ResponsesBody
from octavo.server.request_limits import OpenRequestLimit, OpenRequests
from octavo.server.request_log import RequestLog
from octavo.server.routing import Routing
from octavo.server.serving import Serving, served_names
from octavo.server_config import ServerConfig

BODY_LIMITS = ("max_body_bytes", "max_total_body_bytes")


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
        version=__version__,
        redirect_slashes=False,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
    )
    open_requests = OpenRequests(config.max_queued_requests)
    app.state.is_draining = False
    name, max_model_len = served_names(engine, config)[0], front.ready.limits.max_model_len
    kept = Metrics(front.client, open_requests, name, max_model_len)
    app.state.serving = Serving(front, engine, config, open_requests, kept, sampling_defaults or SamplingDefaults())
    pooling = (embeddings, rerank, score, classify)
    generating = (chat_completions, completions, messages, responses)
    for module in (models, *generating, *pooling, tokenization, health, metrics):
        app.include_router(module.router)
    install_handlers(app, {"/v1/messages": error_event})
    bodies = (
        chat_completions.ChatBody,
        completions.CompletionBody,
        embeddings.EmbeddingBody,
        rerank.RerankBody,
        score.ScoreBody,
        classify.ClassifyBody,
        MessagesBody,
        ResponsesBody,
        PromptBody,
        tokenization.TokenizeBody,
        tokenization.DetokenizeBody,
    )
    describe(app, *bodies)
    _add_layers(app, app.state.serving)
    return app


def _add_layers(app: FastAPI, serving: Serving) -> None:
    """What a request passes on its way in. The last one added is the first that it meets."""
    config = serving.config
    sizes = {name: parse_size(getattr(config, name), 2**40, flag(name)) for name in BODY_LIMITS}
    app.add_middleware(OpenRequestLimit, open_requests=serving.open_requests)
    app.add_middleware(
        Connection,
        room=BodyRoom(sizes["max_body_bytes"], sizes["max_total_body_bytes"]),
        receive_timeout_s=config.receive_timeout,
        open_requests=serving.open_requests,
    )
    app.add_middleware(Routing)
    app.add_middleware(KeyCheck, keys=config.api_key, protect_metrics=config.protect_metrics)
    app.add_middleware(
        RequestLog, metrics=serving.metrics, log_requests=config.log_requests, log_prompts=config.log_prompts
    )
    if config.allowed_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origin,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Expectation)
