"""One model under several names, and the model named by its place on the command line."""

from typing import Any

import pytest

from cli.commands import octavo
from octavo.cli.flags import read_config_flags
from octavo.cli.main import build_parser
from octavo.cli.serve import _model
from octavo.server_config import ServerConfig


def test_every_served_name_answers_and_the_first_is_told(serve: Any) -> None:
    with serve(served_model_name=("house/best", "gpt-4o", "best")) as server, server.http() as http:
        client = server.openai()
        assert [model.id for model in client.models.list()] == ["house/best", "gpt-4o", "best"]
        assert client.models.retrieve("gpt-4o").id == "gpt-4o"
        for name in ("house/best", "gpt-4o", "best", "smollm2"):
            answer = client.completions.create(model=name, prompt="a", max_tokens=1)
            assert answer.model == "house/best"
        chunks = client.completions.create(model="best", prompt="a", max_tokens=1, stream=True)
        assert {chunk.model for chunk in chunks} == {"house/best"}
        refused = http.post("/v1/completions", json={"model": "other", "prompt": "a"})
        assert refused.status_code == 404
        assert all(name in refused.json()["error"]["message"] for name in ("house/best", "gpt-4o", "best"))


def asked(*arguments: str) -> tuple[str, tuple[str, ...]]:
    """The model and the names of a command line."""
    parsed = build_parser().parse_args(["serve", *arguments])
    return _model(parsed), read_config_flags(parsed, ServerConfig).served_model_name


@pytest.mark.parametrize(
    ("arguments", "model", "names"),
    [
        ((), "smollm2", ()),
        (("org/model",), "org/model", ()),
        (("--model", "org/model"), "org/model", ()),
        (("org/model", "--model", "org/model"), "org/model", ()),
        (("--port", "8001", "org/model"), "org/model", ()),
        (("org/model", "--served-model-name", "a", "b"), "org/model", ("a", "b")),
        (("org/model", "--served-model-name", "a", "--served-model-name", "b"), "org/model", ("a", "b")),
        (("--served-model-name", "a", "--model", "org/model"), "org/model", ("a",)),
        (("--served-model-name", "a"), "smollm2", ("a",)),
    ],
)
def test_a_model_is_named_by_its_place_or_by_its_flag(arguments: Any, model: str, names: tuple[str, ...]) -> None:
    assert asked(*arguments) == (model, names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("here", "--model", "there"), "MODEL is here and --model is there"),
        (("--served-model-name", "a", "org/model"), "--served-model-name takes all of a, org/model"),
    ],
)
def test_two_models_or_none_where_one_may_be_meant_are_refused(arguments: tuple[str, ...], words: str) -> None:
    done = octavo("serve", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
