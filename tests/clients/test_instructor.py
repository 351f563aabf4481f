"""instructor's modes against a server: response models come back filled in, whole and as they grow."""

from itertools import pairwise
from typing import Any

import pytest

instructor = pytest.importorskip("instructor")

from anthropic import Anthropic
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel

from clients.weather import ASK, Report
from e2e.server_process import Server

pytestmark = pytest.mark.clients

ASKED: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": ASK}],
    "max_tokens": 120,
    "max_retries": 0,
}
CONSTRAINED = [Mode.TOOLS, Mode.TOOLS_STRICT, Mode.JSON_SCHEMA, Mode.RESPONSES_TOOLS, Mode.ANTHROPIC_TOOLS]


def client(server: Server, mode: Any) -> Any:
    if mode in (Mode.ANTHROPIC_TOOLS, Mode.ANTHROPIC_JSON):
        return instructor.from_anthropic(
            Anthropic(base_url=server.url.removesuffix("/v1"), api_key="EMPTY", max_retries=0), mode=mode
        )
    return instructor.from_openai(OpenAI(base_url=server.url, api_key="EMPTY", max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", CONSTRAINED, ids=lambda mode: mode.name)
def test_a_response_model_is_filled_in(server: Server, mode: Any) -> None:
    report = client(server, mode).create(response_model=Report, **ASKED)
    assert isinstance(report, Report)
    assert 1 <= len(report.readings) <= 2


class Anything(BaseModel, extra="allow"):
    """Any JSON object."""


def test_json_mode_gives_a_json_object(server: Server) -> None:
    """The schema is only told to the model in this mode, which need not keep to it."""
    assert isinstance(client(server, Mode.JSON).create(response_model=Anything, **ASKED), Anything)


@pytest.mark.parametrize("mode", CONSTRAINED, ids=lambda mode: mode.name)
def test_a_model_grows_while_it_is_streamed(server: Server, mode: Any) -> None:
    partials = list(client(server, mode).create_partial(response_model=Report, strict=False, **ASKED))
    assert len(partials) > 3
    cities = [partial.city for partial in partials if partial.city]
    assert all(late.startswith(early) for early, late in pairwise(cities))
    Report.model_validate(partials[-1].model_dump())
