"""An engine in a process of its own: `python -m octavo.engine.process DESCRIPTOR CONFIG`."""

import logging
import select
import socket
import sys
import time
import traceback

import msgspec

from octavo import collector, lifeline
from octavo.config import EngineConfig
from octavo.engine.channel import Channel
from octavo.engine.engine import Engine
from octavo.engine.wire import (
    Abort,
    Event,
    Failure,
    Pin,
    Pinned,
    Ready,
    Refusal,
    Submit,
    Updates,
    decode_command,
    encode,
)
from octavo.errors import OctavoError, RequestError
from octavo.execution.faults import told
from octavo.execution.launch import executor_class
from octavo.execution.machine import address_space_limit
from octavo.scheduling.messages import RequestUpdate

LAST_WORDS_S = 1.0
"""How long the front may take to hear what the engine has failed of."""

logger = logging.getLogger(__name__)


def main(descriptor: int, config_json: str) -> int:
    """Load the model, say so, and serve until the front is gone. Returns 1 after a failure."""
    lifeline.hold()
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        EngineProcess(channel, msgspec.json.decode(config_json, type=EngineConfig)).run()
    except OctavoError as error:
        channel.send(encode(Failure(type(error).__name__, str(error))))
    except MemoryError as error:
        channel.send(encode(Failure("EngineError", _out_of_memory(error))))
    except Exception:
        channel.send(encode(Failure("EngineError", traceback.format_exc())))
    channel.flush_all(LAST_WORDS_S)
    return 1


def _out_of_memory(error: MemoryError) -> str:
    """What a shortage is told as: a line where a limit is the cause, else where it happened."""
    limit = address_space_limit()
    if limit is None:
        return "".join(traceback.format_exception(error))
    return (
        f"the engine has used up the {limit // 2**20:,} MiB of address space that ulimit -v allows: raise it, or lower "
        "--kv-cache-memory or --num-threads"
    )


class EngineProcess:
    """Feeds an engine from a channel and reports there. It steps while there is work, and sleeps otherwise."""

    def __init__(self, channel: Channel, config: EngineConfig) -> None:
        self._channel = channel
        start_s = time.monotonic()
        make_executor = executor_class(config)
        imported_s = time.monotonic()
        executor = make_executor(config, progress=sys.stderr.isatty())
        self._engine = Engine.configured(executor, config)
        collector.keep_all()
        self._poller = select.poll()
        for descriptor in executor.sockets:
            self._poller.register(descriptor, select.POLLIN)
        phases_s = {"import torch": imported_s - start_s, "load the model": time.monotonic() - imported_s}
        self._send(
            Ready(
                limits=self._engine.scheduler.limits,
                block_bytes=executor.capacity.block_bytes,
                num_swap_blocks=executor.capacity.num_swap_blocks,
                weight_bytes=executor.loaded.weight_bytes,
                dtype=executor.loaded.dtype,
                weights=executor.loaded.weights,
                kernels=executor.loaded.kernels,
                phases_s=phases_s,
            )
        )
        self._send(Updates([], self._engine.load))

    def run(self) -> None:
        """Serve. Returns where the front closes the channel."""
        while True:
            if not self._wait().isdisjoint(self._engine.executor.sockets):
                self._engine.executor.check()
            self._channel.flush()
            is_changed = False
            try:
                for message in self._channel.received():
                    is_changed |= self._obey(decode_command(message))
            except EOFError:
                return
            is_changed |= self._expire()
            if self._engine.has_unfinished:
                self._send(Updates(self._engine.step(), self._engine.load))
            elif is_changed:
                self._send(Updates([], self._engine.load))

    def _wait(self) -> set[int]:
        """The descriptors with news; without work, not before there are any."""
        wanted = select.POLLIN | (select.POLLOUT if self._channel.is_behind else 0)
        self._poller.register(self._channel.fileno(), wanted)
        return {descriptor for descriptor, _ in self._poller.poll(0 if self._engine.has_unfinished else None)}

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
            self._send(Updates([RequestUpdate(command.request.request_id, [], error=told(error))], self._engine.load))
            return False
        return True

    def _expire(self) -> bool:
        """Refuse the requests that have waited too long; True where there were any."""
        expired = self._engine.expire(time.monotonic())
        for request in expired:
            waited_s = (request.start_by_s or 0.0) - request.arrival_s
            told = f"the request has not begun within {waited_s:g} s (--max-queue-time): try again later"
            self._send(Refusal(request.request_id, told, "QueueTimeError"))
        return bool(expired)

    def _send(self, event: Event) -> None:
        self._channel.send(encode(event))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
