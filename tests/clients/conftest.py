"""A server process that clients are pointed at, unmodified."""

from collections.abc import AsyncIterator, Iterator

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from e2e.server_process import Server, serving

DEFAULTS = '{"temperature": 0}'
"""Of requests: not every client has a field to say so."""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving("--override-generation-config", DEFAULTS) as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    """The library of tests that are coroutines."""
    return "asyncio"


@pytest.fixture
async def openai_client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    """Closed before its event loop is, as those clients that frameworks make for themselves are not."""
    async with AsyncOpenAI(base_url=server.url, api_key="EMPTY", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_client(server: Server) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server.url.removesuffix("/v1"), api_key="EMPTY", max_retries=0) as client:
        yield client
