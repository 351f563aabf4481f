"""However and whenever a server ends, within two seconds no process, file or socket of it is left."""

import os
import random
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from dropin.mortal_server import Mortal, make_dummy
from e2e.server_process import until

START_S = 8.0
"""About as long as a start takes; later moments find a server that serves."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dummy(tmp_path_factory.mktemp("dummy"))


def test_it_ends_at_random_moments(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """With one rank and with two; the seed is in the failure."""
    num_moments, seed = request.config.getoption("--endings"), random.randrange(10**6)
    r = random.Random(seed)
    for number in range(num_moments):
        signal_number = r.choice([signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
        moment_s, ranks = (number + r.random()) / num_moments * START_S, 1 + number % 2
        what = f"{signal_number.name} after {moment_s:.2f} s with {ranks} rank(s), moment {number} of seed {seed}"
        server = Mortal(model, tmp_path, "--tensor-parallel-size", str(ranks))
        time.sleep(moment_s)
        server.front.send_signal(signal_number)
        try:
            print(f"{what}: {server.check_gone():.2f} s")
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error


def front_killed(server: Mortal) -> None:
    server.front.kill()


def front_hung_up(server: Mortal) -> None:
    server.front.send_signal(signal.SIGHUP)


def engine_killed(server: Mortal) -> None:
    server.engine.kill()


def engine_stopped_and_front_terminated(server: Mortal) -> None:
    server.engine.suspend()
    server.front.terminate()


def engine_stopped_and_front_killed(server: Mortal) -> None:
    server.engine.suspend()
    server.front.kill()


def terminated_twice(server: Mortal) -> None:
    server.front.terminate()
    until(lambda: "Draining" in server.printed)
    server.front.terminate()


@pytest.mark.parametrize(
    "ends",
    [
        front_killed,
        front_hung_up,
        engine_killed,
        engine_stopped_and_front_terminated,
        engine_stopped_and_front_killed,
        terminated_twice,
    ],
)
def test_a_busy_server_of_two_ranks_ends_whole(model: Path, tmp_path: Path, ends: Callable[[Mortal], None]) -> None:
    server = Mortal(model, tmp_path, "--tensor-parallel-size", "2", "--drain-timeout", "0.5")
    server.keep_busy()
    assert len(server.processes) == 4
    ends(server)
    server.check_gone()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a process namespace")
@pytest.mark.parametrize(("number", "moment_s"), [(signal.SIGTERM, 1.5), (signal.SIGTERM, None), (signal.SIGHUP, 2.0)])
def test_the_first_process_of_a_container_hears_signals(
    model: Path, tmp_path: Path, number: signal.Signals, moment_s: float | None
) -> None:
    """As it starts, and as it serves."""
    server = Mortal(model, tmp_path, as_first_process=True)
    if moment_s is None:
        server.serve()
    else:
        time.sleep(moment_s)
    server.front.send_signal(number)
    server.check_gone()


def test_it_ignores_a_hangup_under_nohup(model: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Mortal(model, tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    server.front.send_signal(signal.SIGHUP)
    url = server.serve()
    server.front.send_signal(signal.SIGHUP)
    assert urllib.request.urlopen(url.removesuffix("/v1") + "/live").status == 200
    server.front.terminate()
    server.check_gone()


@pytest.mark.parametrize("length", [83, 120])
def test_a_long_path_for_temporary_files_is_no_hindrance(model: Path, tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    server = Mortal(model, folder)
    server.serve()
    server.front.terminate()
    server.check_gone()


def test_nothing_is_written_where_temporary_files_cannot_be(model: Path, tmp_path: Path) -> None:
    server = Mortal(model, tmp_path, temporary="/proc/nowhere")
    server.serve()
    server.front.terminate()
    server.check_gone()
