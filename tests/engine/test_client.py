"""The engine in its own process: streams, aborts, and what happens when either side dies."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import psutil
import pytest

from octavo.config import EngineConfig
from octavo.engine.client import EngineClient
from octavo.engine.wire import EngineLoad
from octavo.errors import EngineError, FailedRequestError, ModelError, OctavoError, RequestError
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from octavo.scheduling.messages import RequestUpdate
from tiny_checkpoints import make_llama

ENDLESS = 8000
"""Tokens of requests that do not end by themselves while a test looks at them."""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EngineConfig:
    folder = make_llama(tmp_path_factory.mktemp("tiny"), max_position_embeddings=8192)
    return EngineConfig(model=str(folder), kv_cache_memory="32MiB", block_size=4)


@asynccontextmanager
async def connected(config: EngineConfig) -> AsyncIterator[EngineClient]:
    client = EngineClient(config)
    try:
        await client.connect()
        yield client
    finally:
        await client.close()


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def request(name: str, **params) -> EngineRequest:
    return EngineRequest(name, [1, 2, 3, 4, 5], SamplingParams(**params), 0.0, seed=1)


async def tokens_of(stream) -> dict[int, list[int]]:
    got: dict[int, list[int]] = {}
    async for update in stream:
        for sequence in update.sequences:
            got.setdefault(sequence.index, []).extend(sequence.token_ids)
    return got


def load_of(client: EngineClient) -> EngineLoad:
    assert client.load is not None
    return client.load


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_requests_stream_their_tokens_side_by_side(config):
    async def main() -> None:
        async with connected(config) as client:
            streams = [client.submit(request(str(i), n=1 + i, max_tokens=10 + i, ignore_eos=True)) for i in range(3)]
            got = await asyncio.gather(*map(tokens_of, streams))
            assert [[len(tokens) for tokens in each.values()] for each in got] == [[10], [11] * 2, [12] * 3]
            assert got[0][0] == got[1][0][:10], "the same seed and prompt"
            assert client.num_open == 0
            assert load_of(client).ledger.num_used_blocks == 0

    run(main())


def test_a_refused_request_fails_alone(config):
    async def main() -> None:
        async with connected(config) as client:
            good, bad = (
                client.submit(request("good", max_tokens=5)),
                client.submit(request("bad", min_tokens=9_000, max_tokens=None)),
            )
            with pytest.raises(RequestError, match="min_tokens=9000"):
                await tokens_of(bad)
            assert len((await tokens_of(good))[0]) <= 5

    run(main())


def test_a_request_that_fails_in_the_engine_fails_its_own_stream(config):
    async def main() -> None:
        async with connected(config) as client:
            good, bad = (client.submit(request(name, max_tokens=20, ignore_eos=True)) for name in ("good", "bad"))
            client._deliver(RequestUpdate("bad", [], error="IndexError: a cursed row"))
            with pytest.raises(FailedRequestError, match="a cursed row"):
                await tokens_of(bad)
            assert len((await tokens_of(good))[0]) == 20

    run(main())


def test_an_abort_frees_the_blocks_and_ends_the_stream_quietly(config):
    async def main() -> None:
        async with connected(config) as client:
            stream = client.submit(request("a", n=2, max_tokens=ENDLESS, ignore_eos=True))
            await anext(stream)
            client.abort(stream, 0)
            assert client.num_open == 1
            client.abort(stream, 1)
            assert client.num_open == 0
            await until(lambda: load_of(client).ledger.num_used_blocks == 0)
            for i in range(50):
                client.abort(client.submit(request(f"gone {i}", max_tokens=100, ignore_eos=True)))
            await until(lambda: load_of(client).num_running == load_of(client).num_waiting == 0)
            assert len((await tokens_of(client.submit(request("b", max_tokens=3, ignore_eos=True))))[0]) == 3

    run(main())


def test_the_engines_death_fails_every_open_request(config):
    async def main() -> None:
        async with connected(config) as client:
            deaths: list[OctavoError] = []
            client.on_death = deaths.append
            streams = [client.submit(request(str(i), max_tokens=ENDLESS, ignore_eos=True)) for i in range(3)]
            await anext(streams[0])
            os.kill(client._process.pid, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(EngineError, match="ended with status -9"):
                    await tokens_of(stream)
            assert len(deaths) == 1
            with pytest.raises(EngineError):
                client.submit(request("late"))

    run(main())


def test_an_event_that_cannot_be_read_fails_whoever_waits(config, monkeypatch):
    async def main() -> None:
        client = EngineClient(config)
        monkeypatch.setattr("octavo.engine.client.decode_event", lambda message: msgspec.msgpack.decode(b""))
        with pytest.raises(EngineError, match="cannot be understood"):
            await client.connect()
        await client.close()

    run(main())


def test_what_keeps_the_engine_from_starting_is_told_as_its_own_error():
    async def main() -> None:
        client = EngineClient(EngineConfig(model="/nowhere"))
        with pytest.raises(ModelError, match="--model"):
            await client.connect()
        await client.close()

    run(main())


def test_the_engine_ends_with_the_front_however_that_ends(config, tmp_path):
    code = (
        "import asyncio, msgspec, os, sys\n"
        "from octavo.config import EngineConfig\nfrom octavo.engine.client import EngineClient\n"
        "async def main():\n"
        "    client = EngineClient(msgspec.json.decode(sys.argv[1], type=EngineConfig))\n"
        "    await client.connect()\n    print(client._process.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    argument = msgspec.json.encode(config).decode()
    done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
    engine = int(done.stdout)
    left = [process for process in psutil.process_iter() if process.pid == engine]
    assert not psutil.wait_procs(left, timeout=20)[1]


def test_the_front_loads_no_torch():
    code = "import sys, octavo.engine.client, octavo.server.front, octavo.cli.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
