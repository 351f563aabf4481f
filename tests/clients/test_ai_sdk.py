"""Vercel's AI SDK, in JavaScript, through its providers for each of the server's APIs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.server_process import Server

pytestmark = pytest.mark.clients

SOURCE = Path(__file__).parent / "ai_sdk"
PROVIDERS = ["compatible", "chat", "responses", "messages"]


@pytest.fixture(scope="session")
def found(server: Server, pytestconfig: pytest.Config) -> Any:
    """What the script was answered, by provider and question. Its packages are installed once, into pytest's cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are needed, to run Vercel's AI SDK")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("ai_sdk")
    for file in SOURCE.iterdir():
        shutil.copy(file, folder)
    installed = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    run = subprocess.run(["node", "ask.mjs", server.url], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_text_and_its_stream_say_the_same(found: Any, provider: str) -> None:
    text = found[provider]["text"]
    assert text["whole"] == text["streamed"] != ""
    assert text["outputTokens"] == 12


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_object_conforms_and_grows_while_it_is_streamed(found: Any, provider: str) -> None:
    made = found[provider]["object"]
    assert made["whole"] == made["streamed"]
    assert set(made["whole"]) == {"city", "sky", "degrees"}
    assert made["partials"] > 3


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_tool_that_must_be_called_is_and_runs(found: Any, provider: str) -> None:
    called = found[provider]["call"]
    [asked] = called["whole"]["inputs"]
    assert called["whole"]["outputs"] == [f"Rain in {asked['city']}."]
    assert called["streamed"] == called["whole"]
    assert called["finishReason"] == "tool-calls"
