"""One rank of a model that several processes hold: `python -m octavo.execution.rank DESCRIPTOR`.

The process loads its share as a local executor does, and follows the plans that come. It ends with the executor's.
"""

import logging
import os
import sys
import traceback
from collections import deque
from multiprocessing.connection import Connection

from octavo import collector, lifeline
from octavo.errors import OctavoError
from octavo.execution.executor import PendingOutput
from octavo.execution.rank_messages import (
    Done,
    Failed,
    Prepare,
    Run,
    Start,
    Started,
    TellTimes,
    Times,
    decode_order,
    decode_start,
    encode,
)

POLL_S = 2e-4
"""How long a rank listens for the next order before it looks again whether its device has finished a step."""


def main(descriptor: int) -> None:
    """Take orders from a socket until the executor is gone, or until this rank or another fails."""
    lifeline.hold()
    orders = Connection(descriptor)
    start = decode_start(orders.recv_bytes())
    try:
        _serve(orders, start)
    except OctavoError as error:
        orders.send_bytes(encode(Failed(type(error).__name__, str(error))))
    except BaseException:
        message = f"rank {start.rank} of the model failed:\n{traceback.format_exc()}"
        orders.send_bytes(encode(Failed("EngineError", message)))
    sys.stderr.flush()
    os._exit(1)  # at once: what waits in a collective would keep the interpreter from ending


def _serve(orders: "Connection[bytes, bytes]", start: Start) -> None:
    if start.rank > 0:  # one rank tells what all find
        logging.getLogger("octavo").setLevel(logging.ERROR)
    with collector.paused():
        from octavo.execution.device import resolve_device
        from octavo.execution.local import LocalExecutor
        from octavo.execution.process_group import join_ranks
        from octavo.layers.parallel import TensorParallel

    ranks = TensorParallel(start.rank, start.config.tensor_parallel_size)
    join_ranks(ranks.rank, ranks.size, start.rendezvous, resolve_device(start.config, ranks.rank))
    progress = start.progress and start.rank == 0
    executor = LocalExecutor(start.config, ranks, progress=progress, grammars=start.grammars)
    collector.keep_all()
    orders.send_bytes(encode(Started(executor.capacity, executor.loaded, executor.depth)))
    in_flight: deque[PendingOutput] = deque()
    while True:
        while in_flight and (in_flight[0].is_over() or not orders.poll(POLL_S)):
            if in_flight[0].is_over():
                output = in_flight.popleft().result()
                if start.rank == 0:
                    orders.send_bytes(encode(Done(output)))
        match decode_order(orders.recv_bytes()):
            case Run(plan):
                in_flight.append(executor.submit(plan))
            case Prepare(wanted):
                executor.prepare(wanted)
            case TellTimes():
                orders.send_bytes(encode(Times(executor.times())))


if __name__ == "__main__":
    main(int(sys.argv[1]))
