"""The process in which the parts run: one after the other, with what they share. Torch is loaded here only."""

import signal
import traceback
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    toy: bool
    pool_gib: int


def work(connection: Connection, asked: Asked) -> None:
    """Run the parts that come, and send their figures; None ends each."""
    signal.signal(signal.SIGINT, lambda *_: None)  # what this process starts is told of Ctrl-C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        bench = _bench(asked)
    except Exception as error:
        connection.send(("cannot start", f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            function, limit_s, told = connection.recv()
        except EOFError:
            return
        bench.begin(limit_s, told)
        try:
            for named in _figures(function, bench):
                connection.send(named)
        except Exception as error:
            connection.send(("error", f"{type(error).__name__}: {error}"[:500]))
            connection.send(("traceback", traceback.format_exc()[-2000:]))
        connection.send(None)


def _bench(asked: Asked) -> Any:
    from gpu_parts.bare import stand_in

    stood_in = stand_in()
    from gpu_parts.bench import Bench

    return Bench(asked.toy, asked.pool_gib, stood_in)


def _figures(function: str, bench: Any) -> Any:
    module, _, name = function.partition(".")
    return getattr(import_module(f"gpu_parts.{module}"), name)(bench)
