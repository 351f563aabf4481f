"""A server of made-up weights that starts quickly, in a temporary folder of its own, and what is left of it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import psutil

from e2e.server_process import SERVE, until
from tiny_checkpoints import TINY

LIMIT_S = 2.0
MARK = "OCTAVO_TEST_MARK"
"""An environment variable that all processes of a server have, and no other."""


def make_dummy(folder: Path) -> Path:
    """A model without weights: they are made up."""
    sizes = TINY | {"vocab_size": 49152, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(sizes | {"max_position_embeddings": 8192}))
    return folder


class Mortal:
    """A server that is going to end, in a temporary folder of its own."""

    def __init__(
        self, model: Path, folder: Path, *flags: str, as_first_process: bool = False, temporary: str | None = None
    ) -> None:
        self.mark, self.folder = uuid.uuid4().hex, folder / uuid.uuid4().hex[:8]
        self.folder.mkdir()
        command = [*SERVE, "--model", str(model), "--load-format", "dummy", "--tokenizer", "smollm2", "--port", "0"]
        command += ["--kv-cache-memory", "32MiB", "--num-threads", "1", *flags]
        if as_first_process:
            command = ["unshare", "--pid", "--fork", "--mount-proc", *command]
        environment = os.environ | {MARK: self.mark, "TMPDIR": temporary or str(self.folder)}
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
