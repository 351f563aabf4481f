"""What one request holds ends no other and no server."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from dropin.mortal_server import Mortal, make_dummy
from octavo.errors import EngineError, FailedRequestError
from octavo.server.errors import api_error


def post(url: str, body: dict[str, object]) -> int:
    request = urllib.request.Request(
        url + "/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_numbers_that_float32_cannot_hold_end_no_server(tmp_path: Path) -> None:
    server = Mortal(make_dummy(tmp_path), tmp_path)
    url = server.serve()
    search = {"prompt": "hello", "max_tokens": 4, "use_beam_search": True, "n": 2, "allowed_token_ids": [5, 6]}
    for beams in ({"repetition_penalty": 1e-320}, {"repetition_penalty": 1e-45}, {"length_penalty": 1e308}):
        assert post(url, search | beams) in (200, 400)
    plain: dict[str, object] = {"prompt": "hello", "max_tokens": 4}
    for odd in ({"temperature": 1e-320}, {"logit_bias": {"5": 100}, "repetition_penalty": 1e-320}):
        assert post(url, {**plain, **odd}) in (200, 400)
    assert post(url, {"prompt": "hello", "max_tokens": 4}) == 200
    server.front.terminate()
    server.check_gone()


def test_a_request_that_failed_in_the_engine_is_an_error_of_the_server_and_a_dead_engine_another() -> None:
    assert (api_error(FailedRequestError("x")).status, api_error(EngineError("x")).status) == (500, 503)
