"""A real server: an engine process on smollm2, uvicorn on a free port, in a thread with its own loop."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI

from octavo.checkpoints.generation_config import SamplingDefaults
from octavo.config import EngineConfig
from octavo.engine.client import EngineClient
from octavo.server.app import create_app
from octavo.server.front import Front
from octavo.server.http_server import HttpServer
from octavo.server.listener import connection_limit, open_listeners
from octavo.server_config import ServerConfig
from octavo.tokenization.loading import load_tokenizer

ENGINE = EngineConfig(
    model="smollm2",
    dtype="float32",
    quantization="none",
    kv_cache_memory="192MiB",
    max_model_len=512,
    speculate="auto",
)
PATIENCE_S = 20.0
"""How long a condition may take to come true; on a busy machine nothing is sooner than it is."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that is about to be true."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.01)


@dataclass
class Background:
    """An event loop in a thread, and the front that lives on it."""

    loop: asyncio.AbstractEventLoop
    front: Front

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def is_idle(self) -> bool:
        """No request is open, and the engine holds no memory."""
        client = self.front.client
        return client.num_open == 0 and (client.load is None or client.load.ledger.num_used_blocks == 0)


@dataclass
class Server:
    """A server listening on `url`."""

    app: FastAPI
    url: str
    background: Background
    http_server: HttpServer

    @property
    def front(self) -> Front:
        return self.background.front

    @property
    def num_in_server(self) -> int:
        count: int = self.app.state.serving.open_requests.count
        return count

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, **options)

    def openai(self, key: str = "EMPTY") -> OpenAI:
        return OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, timeout=PATIENCE_S)

    def openai_async(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key="EMPTY", base_url=f"{self.url}/v1", max_retries=0, timeout=PATIENCE_S)


def send(server: Server, body: dict[str, Any], cut: int | None = None, path: str = "/v1/completions") -> socket.socket:
    """Send a request, or its beginning, and leave the connection open."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall((f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)[:cut])
    return connection


@contextmanager
def running_engine(config: EngineConfig = ENGINE) -> Iterator[Background]:
    """An engine process, connected from a loop in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def connect() -> Front:
        client = EngineClient(config)
        return Front(client, load_tokenizer(config), await client.connect(), config.seed)

    background = Background(loop, asyncio.run_coroutine_threadsafe(connect(), loop).result(60))
    try:
        yield background
    finally:
        background.run(background.front.client.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def serving(
    background: Background, sampling_defaults: SamplingDefaults | None = None, **knobs: Any
) -> Iterator[Server]:
    """A server in front of an engine, with its own configuration."""
    config = ServerConfig(port=0, **knobs)
    app = create_app(background.front, ENGINE, config, sampling_defaults)
    http_server = HttpServer(app, config, connection_limit(config.max_connections))
    listeners = open_listeners(config)
    running = asyncio.run_coroutine_threadsafe(http_server.serve(listeners), background.loop)
    until(lambda: http_server.started)
    port = listeners[0].getsockname()[1]
    try:
        yield Server(app, f"http://127.0.0.1:{port}", background, http_server)
    finally:
        http_server.stop(force=True)
        running.result(PATIENCE_S)


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    with running_engine() as background:
        yield background


@pytest.fixture(scope="session")
def server(background: Background) -> Iterator[Server]:
    """A server with the default knobs."""
    with serving(background) as server:
        yield server


@pytest.fixture
def serve(background: Background) -> Callable[..., AbstractContextManager[Server]]:
    """Start another server in front of the same engine: `with serve(max_n=2) as server`."""
    return lambda **knobs: serving(background, **knobs)


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.openai()
