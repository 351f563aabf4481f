"""A server is ready while its engine gets on, not merely while it is there."""

import urllib.error
import urllib.request
from pathlib import Path

from dropin.mortal_server import Mortal, make_dummy
from e2e.server_process import until


def status(url: str, path: str) -> int:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + path) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_engine_that_is_stopped_while_work_waits_makes_the_server_not_ready(tmp_path: Path) -> None:
    server = Mortal(make_dummy(tmp_path), tmp_path, "--ready-timeout", "2")
    url = server.serve()
    server.engine.suspend()
    assert status(url, "/ready") == 200, "nothing waits"
    server.engine.resume()
    server.keep_busy()
    assert status(url, "/ready") == 200
    server.engine.suspend()
    until(lambda: status(url, "/ready") == 503)
    assert (status(url, "/live"), status(url, "/health")) == (200, 200), "it may go on yet"
    server.engine.resume()
    until(lambda: status(url, "/ready") == 200)
    server.engine.suspend()
    server.front.terminate()
    server.check_gone()
