"""However and whenever a server ends, within two seconds no process, file or socket of it is left."""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from e2e.server_process import SERVE, until
from tiny_checkpoints import TINY

LIMIT_S = 2.0
MARK = "OCTAVO_TEST_MARK"
"""An environment variable that all processes of a server have, and no other."""
START_S = 8.0
"""About as long as a start takes; later moments find a server that serves."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with no weights: they are made up."""
    folder: Path = tmp_path_factory.mktemp("dummy")
    sizes = TINY | {"vocab_size": 49152, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 8192}))
    return folder


class Mortal:
    """A server that is going to end, in a temporary folder of its own."""

    def __init__(self, model: Path, folder: Path, *flags: str, as_first_process: bool = False) -> None:
        self.mark, self.folder = uuid.uuid4().hex, folder / uuid.uuid4().hex[:8]
        self.folder.mkdir()
        command = [*SERVE, "--model", str(model), "--load-format", "dummy", "--tokenizer", "smollm2", "--port", "0"]
        command += ["--kv-cache-memory", "32MiB", "--num-threads", "1", *flags]
        if as_first_process:
            command = ["unshare", "--pid", "--fork", "--mount-proc", *command]
        environment = os.environ | {MARK: self.mark, "TMPDIR": str(self.folder)}
        self._log = open(self.folder.parent / f"{self.mark}.log", "w+")  # noqa: SIM115
        self.started = subprocess.Popen(command, env=environment, stderr=self._log, start_new_session=True)
        self.as_first_process = as_first_process

    @property
    def printed(self) -> str:
        return Path(self._log.name).read_text()

    @property
    def processes(self) -> list[psutil.Process]:
        """All that is alive, however it came about."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    @property
    def front(self) -> psutil.Process:
        process = psutil.Process(self.started.pid)
        if not self.as_first_process:
            return process
        until(lambda: bool(process.children()))
        return process.children()[0]

    @property
    def engine(self) -> psutil.Process:
        until(lambda: bool(self.front.children()))
        return self.front.children()[0]

    def serve(self) -> str:
        """Wait until it serves. Returns its address."""
        until(lambda: "listening" in self.printed or self.started.poll() is not None, 60)
        found = re.search(r"http://\S+", self.printed)
        assert found, self.printed
        return found[0]

    def keep_busy(self) -> None:
        """Have it write an answer for long."""
        body = {"prompt": [5] * 8, "max_tokens": 8000, "stream": True, "ignore_eos": True}
        request = urllib.request.Request(
            self.serve() + "/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        answer = urllib.request.urlopen(request)
        answer.read(100)

        def read() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer.read()

        threading.Thread(target=read, daemon=True).start()

    def check_gone(self) -> float:
        """Wait until nothing is left. Returns the seconds that it took."""
        start_s = time.monotonic()
        while left := self.processes:
            self.started.poll()
            if time.monotonic() - start_s > LIMIT_S + 10:
                break
            time.sleep(0.01)
        took_s = time.monotonic() - start_s
        for process in left:
            process.kill()
        self.started.wait()
        self._log.close()
        assert not left, f"left: {left}\n{self.printed}"
        assert took_s < LIMIT_S, f"{took_s:.1f} s\n{self.printed}"
        assert not [path for path in self.folder.iterdir() if "octavo" in path.name], list(self.folder.iterdir())
        assert "Traceback" not in self.printed.partition("Loading")[2], self.printed
        return took_s


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
@pytest.mark.parametrize(
    ("number", "moment_s"), [(signal.SIGTERM, 1.5), (signal.SIGTERM, START_S), (signal.SIGHUP, 2.0)]
)
def test_the_first_process_of_a_container_hears_signals(
    model: Path, tmp_path: Path, number: signal.Signals, moment_s: float
) -> None:
    server = Mortal(model, tmp_path, as_first_process=True)
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
