"""The server under load and under clients that go away: no error, and everything back to its level afterwards."""

import asyncio
import random
import time

import httpx
import psutil
import pytest

from e2e.server_process import Server, serving, until

NUM_STREAMS = 256


def levels(server: Server) -> tuple[list[int], list[float]]:
    """File descriptors and resident MiB of the front and the engine."""
    with_memory = [(p.num_fds(), p.memory_info().rss / 2**20) for p in server.processes]
    return [fds for fds, _ in with_memory], [memory for _, memory in with_memory]


def is_empty(server: Server) -> bool:
    metrics = server.metrics()
    names = ("octavo:requests_open", "vllm:num_requests_running", "vllm:num_requests_waiting")
    held = [value for name, value in metrics.items() if name.startswith((*names, 'octavo:kv_blocks{state="used"}'))]
    return len(held) == 4 and not any(held)


async def stream_once(client: httpx.AsyncClient, r: random.Random) -> None:
    max_tokens, n = r.randint(4, 24), r.choice((1, 1, 1, 2))
    body = {
        "model": "smollm2",
        "prompt": [r.randrange(100, 49000) for _ in range(r.randint(1, 40))],
        "max_tokens": max_tokens,
        "n": n,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    last = ""
    async with client.stream("POST", "/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            assert not line.startswith('data: {"error"'), line
            if "usage" in line:
                last = line
    assert f'"completion_tokens":{max_tokens * n}' in last.replace(" ", "")


async def load(server: Server, seconds: float) -> int:
    deadline, done = time.monotonic() + seconds, 0

    async def keep_streaming(number: int, client: httpx.AsyncClient) -> None:
        nonlocal done
        r = random.Random(number)
        while time.monotonic() < deadline:
            await stream_once(client, r)
            done += 1

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(keep_streaming(number, client) for number in range(NUM_STREAMS)))
    return done


@pytest.mark.load
@pytest.mark.timeout(900)
def test_256_streams_for_two_minutes_leave_no_error_and_no_trace():
    with serving() as server:
        asyncio.run(load(server, 15))
        until(lambda: is_empty(server))
        before = levels(server)
        num_done = asyncio.run(load(server, 120))
        until(lambda: is_empty(server))
        until(lambda: all(new <= old for old, new in zip(before[0], levels(server)[0], strict=True)), 60)
        after = levels(server)
        print(f"\n{num_done} streams; descriptors {before[0]} -> {after[0]}, MiB {before[1]} -> {after[1]}")
        assert all(new < old + 30 for old, new in zip(before[1], after[1], strict=True))


async def disconnect_once(server: Server, r: random.Random) -> None:
    """Send a request of some kind and go away after some time, whatever it is doing then."""
    text = "word " * r.choice((3, 60, 700, 150_000))
    body = {"model": "smollm2", "prompt": text[: 5 * 900] if r.random() < 0.9 else text, "ignore_eos": True}
    body |= {"n": r.choice((1, 2, 4)), "stream": r.random() < 0.5, "max_tokens": r.choice((1, 20, 100))}
    try:
        async with (
            httpx.AsyncClient(base_url=server.url) as client,
            asyncio.timeout(r.choice((0.002, 0.05, 0.5, 2, 4))),
            client.stream("POST", "/completions", json=body) as response,
        ):
            async for _ in response.aiter_lines():
                if r.random() < 0.2:
                    return
    except (TimeoutError, httpx.HTTPError):
        pass


async def disconnects(server: Server, count: int) -> None:
    r = random.Random(count)
    crowd = asyncio.Semaphore(24)

    async def one() -> None:
        async with crowd:
            await disconnect_once(server, r)

    await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.parametrize("count", [40, pytest.param(300, marks=[pytest.mark.load, pytest.mark.timeout(900)])])
def test_clients_that_go_away_at_any_stage_leave_nothing_behind(count):
    with serving("--max-num-seqs", "8", "--max-num-batched-tokens", "256") as server:
        asyncio.run(disconnects(server, 8))
        until(lambda: is_empty(server), 60)
        before = levels(server)
        asyncio.run(disconnects(server, count))
        until(lambda: is_empty(server), 60)
        until(lambda: all(new <= old for old, new in zip(before[0], levels(server)[0], strict=True)), 60)
        assert all(psutil.pid_exists(process.pid) for process in server.processes)
        answer = server.client.completions.create(
            model="smollm2", prompt="The capital of France is", max_tokens=3, temperature=0
        )
        assert "Paris" in answer.choices[0].text
