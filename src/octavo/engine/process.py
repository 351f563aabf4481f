"""An engine in a process of its own: `python -m octavo.engine.process COMMANDS EVENTS CONFIG`."""

import logging
import signal
import sys
import time
import traceback
from collections.abc import Iterator

import msgspec
import zmq

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.wire import (
    Abort,
    Command,
    EngineLoad,
    Event,
    Failure,
    Pin,
    Pinned,
    Ready,
    Refusal,
    Shutdown,
    Submit,
    Updates,
    decode_command,
    encode,
)
from octavo.errors import OctavoError, RequestError
from octavo.execution.faults import told
from octavo.execution.launch import executor_class
from octavo.scheduling.messages import RequestUpdate

logger = logging.getLogger(__name__)


def main(commands_address: str, events_address: str, config_json: str) -> int:
    """Load the model, say so, and serve until told to stop or until the front is gone. Returns 1 after a failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context = zmq.Context()
    commands, events = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket in (commands, events):
        socket.set_hwm(0)
    commands.connect(commands_address)
    events.connect(events_address)
    try:
        EngineProcess(commands, events, msgspec.json.decode(config_json, type=EngineConfig)).run()
    except OctavoError as error:
        events.send(encode(Failure(type(error).__name__, str(error))))
        return 1
    except Exception:
        events.send(encode(Failure("EngineError", traceback.format_exc())))
        return 1
    finally:
        context.destroy(linger=1000)
    return 0


class EngineProcess:
    """Feeds an engine from one socket and reports to another. It steps while there is work, and sleeps otherwise."""

    def __init__(self, commands: "zmq.Socket[bytes]", events: "zmq.Socket[bytes]", config: EngineConfig) -> None:
        self._commands = commands
        self._events = events
        self._poller = zmq.Poller()
        self._poller.register(commands, zmq.POLLIN)
        # The front holds the other end of standard input: it reads as closed once the front is gone, however it went.
        self._poller.register(sys.stdin.fileno(), zmq.POLLIN)
        start_s = time.monotonic()
        make_executor = executor_class(config)
        imported_s = time.monotonic()
        executor = make_executor(config, progress=sys.stderr.isatty())
        self._engine = Engine.configured(executor, config)
        for descriptor in executor.sockets:
            self._poller.register(descriptor, zmq.POLLIN)
        phases_s = {"import torch": imported_s - start_s, "load the model": time.monotonic() - imported_s}
        self._send(
            Ready(
                limits=self._engine.scheduler.limits,
                block_bytes=executor.capacity.block_bytes,
                num_swap_blocks=executor.capacity.num_swap_blocks,
                weight_bytes=executor.loaded.weight_bytes,
                dtype=executor.loaded.dtype,
                kernels=executor.loaded.kernels,
                phases_s=phases_s,
            )
        )
        self._send(Updates([], self._load()))

    def run(self) -> None:
        """Serve until `Shutdown` comes or the front is gone."""
        while True:
            ready = dict(self._poller.poll(0 if self._engine.has_unfinished else None))
            if sys.stdin.fileno() in ready:
                return
            if not ready.keys().isdisjoint(self._engine.executor.sockets):
                self._engine.executor.check()
            is_changed = False
            for command in self._received():
                if isinstance(command, Shutdown):
                    return
                is_changed |= self._obey(command)
            if self._engine.has_unfinished:
                self._send(Updates(self._engine.step(), self._load()))
            elif is_changed:
                self._send(Updates([], self._load()))

    def _received(self) -> Iterator[Command]:
        while True:
            try:
                yield decode_command(self._commands.recv(zmq.NOBLOCK))
            except zmq.Again:
                return

    def _obey(self, command: Submit | Abort | Pin) -> bool:
        """Carry out a command; True where it changed something."""
        if isinstance(command, Pin):
            self._engine.pin(command.token_ids, command.name)
            self._send(Pinned(self._engine.scheduler.limits))
            return True
        if isinstance(command, Abort):
            return self._engine.abort(command.request_id, command.index)
        try:
            self._engine.add(command.request)
        except RequestError as error:
            self._send(Refusal(command.request.request_id, str(error)))
            return False
        except Exception as error:  # nothing has been allocated for it
            logger.error("a request could not be queued", exc_info=error)
            self._send(Updates([RequestUpdate(command.request.request_id, [], error=told(error))], self._load()))
            return False
        return True

    def _load(self) -> EngineLoad:
        scheduler = self._engine.scheduler
        return EngineLoad(
            ledger=scheduler.ledger(),
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_steps=self._engine.num_steps,
        )

    def _send(self, event: Event) -> None:
        self._events.send(encode(event))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
