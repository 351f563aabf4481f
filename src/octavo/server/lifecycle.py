"""From the first line of output to the exit status: start, serve, drain, end."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import msgspec

from octavo import collector
from octavo.checkpoints.generation_config import SamplingDefaults, read_sampling_defaults
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.engine.client import EngineClient
from octavo.engine.wire import Ready
from octavo.errors import OctavoError
from octavo.memory import most_at_once
from octavo.server.listener import check_exposure, connection_limit, open_listeners
from octavo.server.signals import end_at_once_on_signals, end_signals, leave
from octavo.server_config import ServerConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from octavo.server.http_server import HttpServer

MIB = 2**20
RENDER_TIMEOUT_S = 1
"""Seconds after a signal in which conversations still become prompts: a template may hang on every one that waits."""


def serve(engine: EngineConfig, config: ServerConfig) -> NoReturn:
    """Serve until a signal or the engine's death. The process ends with status 0 after a drain, 1 after anything else.

    Raises:
        ConfigError: the address cannot or must not be listened on, or a knob keeps the engine from starting.
        ModelError: the model cannot be found, downloaded or read.
    """
    check_exposure(config)
    clock = _Clock()
    max_connections = connection_limit(config.max_connections)
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(listener) for listener in open_listeners(config)]
        print(f"Loading {engine.model} …", file=sys.stderr, flush=True)
        # Before there is a loop or another process: Ctrl-C ends a download, and both processes see the same files.
        local = resolve_model(engine)
        if local != engine:
            clock.lap("find the model's files")
        asyncio.run(_with_engine(listeners, max_connections, engine, local, config, clock))


async def _with_engine(
    listeners: list[socket.socket],
    max_connections: int,
    engine: EngineConfig,
    local: EngineConfig,
    config: ServerConfig,
    clock: "_Clock",
) -> NoReturn:
    client = EngineClient(local)
    try:
        status = await _serve(client, listeners, max_connections, engine, local, config, clock)
    finally:
        await client.close()
    leave(status)


class _Clock:
    """Seconds of each part of the start."""

    def __init__(self) -> None:
        self.start_s = self._last_s = time.monotonic()
        self.phases_s: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.phases_s[name] = now - self._last_s
        self._last_s = now

    @property
    def total_s(self) -> float:
        return time.monotonic() - self.start_s


async def _serve(
    client: EngineClient,
    listeners: list[socket.socket],
    max_connections: int,
    engine: EngineConfig,
    local: EngineConfig,
    config: ServerConfig,
    clock: _Clock,
) -> int:
    connecting = asyncio.ensure_future(client.connect())
    # The engine process is under way: the front's own heavy imports happen beside its.
    from octavo.server.app import create_app
    from octavo.server.front import Front
    from octavo.server.http_server import HttpServer
    from octavo.tokenization.loading import load_tokenizer, read_pinned_prefix, read_score_template

    clock.lap("import the front")
    defaults = read_sampling_defaults(local)
    tokenizer = load_tokenizer(local)
    pins = [(read_pinned_prefix(path, tokenizer), path) for path in engine.pin_prefix]
    clock.lap("load the tokenizer")
    ready = await connecting
    clock.lap("wait for the engine")
    for token_ids, path in pins:
        ready = msgspec.structs.replace(ready, limits=await client.pin(token_ids, path))
    if pins:
        clock.lap("compute the pinned prefixes")

    front = Front(client, tokenizer, ready, engine.seed, config.tool_parser, read_score_template(engine))
    app = create_app(front, engine, config, defaults)
    server = HttpServer(app, config, max_connections)
    ending = _Ending(client, server, app, config.drain_timeout)
    with ending.watching():
        clock.lap("open the port")
        print(
            summary(engine, ready, listeners[0], defaults, clock.phases_s, clock.total_s), file=sys.stderr, flush=True
        )
        collector.keep_all()
        try:
            await server.serve(sockets=listeners)
        finally:
            front.close()
    return ending.status


class _Ending:
    """Decides when the server stops, and with which status."""

    def __init__(self, client: EngineClient, server: "HttpServer", app: "FastAPI", drain_timeout_s: float) -> None:
        self._client = client
        self._server = server
        self._app = app
        self._drain_timeout_s = drain_timeout_s
        self._draining: asyncio.Task[None] | None = None
        self.status = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listen for signals and for the engine's death."""
        loop, numbers = asyncio.get_running_loop(), end_signals()
        self._client.on_death = self._end_with_engine
        for number in numbers:
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
            end_at_once_on_signals()

    @property
    def _num_open(self) -> int:
        """Requests in the server, those being tokenized or written out included."""
        num_open: int = self._app.state.serving.open_requests.count
        return num_open

    def _signalled(self) -> None:
        if self._draining is not None:
            print("Stopping at once: what runs is aborted", file=sys.stderr, flush=True)
            self._stop(force=True, status=1)
            return
        self._app.state.is_draining = True
        print(
            f"Draining: {self._num_open} requests may take {self._drain_timeout_s:g} s; signal again to stop",
            file=sys.stderr,
            flush=True,
        )
        self._draining = asyncio.ensure_future(self._drain())
        asyncio.get_running_loop().call_later(RENDER_TIMEOUT_S, self._app.state.serving.front.close)

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._drain_timeout_s
        while self._num_open and time.monotonic() < deadline and not self._client.is_stopped:
            await asyncio.sleep(0.02)
        self._stop(force=self._num_open > 0, status=self.status)

    def _end_with_engine(self, error: OctavoError) -> None:
        print(f"octavo: the engine has failed: {error}", file=sys.stderr, flush=True)
        self._stop(force=False, status=1)

    def _stop(self, *, force: bool, status: int) -> None:
        self.status = status
        self._server.stop(force=force)


def summary(
    engine: EngineConfig,
    ready: Ready,
    listener: socket.socket,
    defaults: SamplingDefaults,
    front_s: dict[str, float],
    total_s: float,
) -> str:
    """The table printed when the server is up."""
    limits = ready.limits
    host, port = listener.getsockname()[:2]
    at_full_length = most_at_once(limits.demand, limits.max_model_len, limits.num_blocks, limits.max_num_seqs)
    num_slots = limits.num_blocks * limits.block_size // len(limits.demand.layer_groups.groups)
    cache_mib = limits.num_blocks * ready.block_bytes / MIB
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in front_s.items())
    engine_phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in ready.phases_s.items())
    quantized = f" and {ready.weights}" if ready.weights else ""
    sequences = "sequence" if at_full_length == 1 else "sequences"
    rows = {
        "model": f"{engine.model} in {ready.dtype}{quantized}, {ready.weight_bytes / MIB:,.0f} MiB of weights",
        "KV cache": f"{limits.num_blocks:,} blocks of {limits.block_size} tokens, {cache_mib:,.0f} MiB",
        "swap space": f"{ready.num_swap_blocks:,} blocks, {ready.num_swap_blocks * ready.block_bytes / MIB:,.0f} MiB",
        "serves": f"{num_slots:,} tokens at once: {at_full_length:,} {sequences} of the full "
        f"{limits.max_model_len:,} tokens, at most {limits.max_num_seqs} at once",
        "kernels": ready.kernels,
        "sampling": f"defaults of requests: {defaults}; --generation-config changes them",
        "ready after": f"{total_s:.1f} s: {phases}; beside it the engine: {engine_phases}",
        "listening": f"http://{f'[{host}]' if ':' in host else host}:{port}/v1",
    }
    return "\n".join(f"  {name:<12} {value}" for name, value in rows.items())
