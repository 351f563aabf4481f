"""A server process of the tests: started with flags, its address read off what it prints."""

import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from openai import OpenAI

SERVE = [sys.executable, "-m", "octavo.cli.main", "serve"]
FLAGS = ["--port", "0", "--kv-cache-memory", "512MiB", "--max-model-len", "1024"]


class Server:
    """A server process, its address and what it printed."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.printed = ""
        for line in self.process.stderr or ():
            self.printed += line
            if "listening" in line:
                break
        found = re.search(r"http://\S+", self.printed)
        assert found, self.printed
        self.url = found[0]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.printed += line

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=self.url, api_key="EMPTY", max_retries=0)

    @property
    def processes(self) -> list[psutil.Process]:
        """The front and the engine."""
        front = psutil.Process(self.process.pid)
        return [front, *front.children()]

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name and labels."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics") as response:
            lines = [line.decode().rsplit(" ", 1) for line in response if not line.startswith(b"#")]
        return {name: float(value) for name, value in lines}

    def wait(self) -> int:
        status = self.process.wait()
        self._reader.join()
        return status


@contextmanager
def serving(*flags: str, command: list[str] = SERVE) -> Iterator[Server]:
    """A server with `FLAGS` and these, killed in the end if it is still there."""
    server = Server([*command, *FLAGS, *flags])
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds; failing to is an error, how long it takes is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
