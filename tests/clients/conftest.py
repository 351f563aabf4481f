"""A server process that clients are pointed at, unmodified."""

from collections.abc import Iterator

import pytest

from e2e.server_process import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running
