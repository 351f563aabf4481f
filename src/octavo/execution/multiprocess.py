"""The multi-process executor: one process a rank, each with its share of every layer (tensor parallelism).

All ranks are processes of their own, rank 0 too. So the engine is never inside a collective: it waits for rank 0's
output and for the end of any rank at once, an interrupted step does no harm to the next, and it loads no torch.
"""

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import wait

from octavo import lifeline
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.errors import EngineError, LostRankError, OctavoError, error_named
from octavo.execution.executor import Capacity, ExecutionTimes, LoadedModel, PendingOutput
from octavo.execution.plan import Plan, StepOutput
from octavo.execution.rank_messages import (
    Done,
    Failed,
    Prepare,
    Report,
    Run,
    Start,
    Started,
    TellTimes,
    Times,
    decode_report,
    encode,
)
from octavo.sampling.grammars import BUILT_IN
from octavo.structured_outputs import Grammar, ReasoningSection

BLAME_WAIT_S = 2.0
"""How long to look for the rank that failed, once another says that it has lost one."""


class MultiProcessExecutor:
    """Runs plans on `--tensor-parallel-size` ranks. Where one of them ends or fails, all end.

    Args:
        grammars: the kinds of grammars that the ranks are to know, as `Grammars` takes them; rank 0 uses them.

    Raises:
        ModelError: the model cannot be found, downloaded or read.
        ConfigError: the model, its length or its cache does not fit, or cannot be split over so many ranks; or a kind
            of grammars cannot be imported.
        EngineError: a rank ended while loading; the message says which and how.
    """

    def __init__(self, config: EngineConfig, *, progress: bool = False, grammars: Mapping[str, str] = BUILT_IN) -> None:
        config = resolve_model(config)
        self._ranks: list[RankProcess] = []
        self._num_submitted = 0
        """Steps so far…"""
        self._num_done = 0
        """…and those whose outputs have come, in their order."""
        self._failure: OctavoError | None = None
        try:
            with open(os.memfd_create("octavo-rendezvous")) as rendezvous:
                for rank in range(config.tensor_parallel_size):
                    start = Start(config, rank, rendezvous.fileno(), progress, dict(grammars))
                    self._ranks.append(RankProcess(start))
            self.capacity, self.loaded, self.depth = self._started()
        except BaseException:
            self.close()
            raise

    @property
    def process_ids(self) -> list[int]:
        """Of the ranks, in their order."""
        return [rank.process.pid for rank in self._ranks]

    @property
    def sockets(self) -> list[int]:
        """File descriptors of which one becomes readable where a rank ends while no step runs; then `check` raises."""
        return [rank.socket.fileno() for rank in self._ranks]

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[None]:
        """Rank 0 makes it ready, beside its steps. Nobody hears when that is over."""
        with self._unless_interrupted():
            self._ranks[0].send(encode(Prepare(wanted)))
        asked: Future[None] = Future()
        asked.set_result(None)
        return asked

    def check(self) -> None:
        """Hear whether a rank has something to say between steps.

        Raises:
            EngineError: the executor is closed, or a rank has failed or ended.
        """
        if self._failure is not None:
            raise self._failure
        if self._num_done == self._num_submitted and _with_news(self._ranks, 0):
            self._next_report()

    def times(self) -> ExecutionTimes:
        """Those of rank 0.

        Raises:
            EngineError: the executor is closed, or a rank has failed.
        """
        self._wait_for(self._num_submitted)
        with self._unless_interrupted():
            self._ranks[0].send(encode(TellTimes()))
            while True:
                _, report = self._next_report()
                if isinstance(report, Times):
                    return report.times

    def submit(self, plan: Plan) -> PendingOutput:
        """Hand a plan to all ranks.

        Raises:
            EngineError: the executor is closed, or a rank has failed.
        """
        # Ctrl-C may have ended the wait for steps before.
        self._wait_for(self._num_submitted - self.depth + 1)
        message = encode(Run(plan))
        with self._unless_interrupted():
            for rank in self._ranks:
                rank.send(message)
        self._num_submitted += 1
        return PendingOutput(partial(self._wait_for, self._num_submitted))

    def _wait_for(self, num_done: int) -> StepOutput:
        """Wait until so many steps have been done. Returns the output of the last of them; what the others gave that
        come in meanwhile nobody wants to know.

        Raises:
            EngineError: the executor is closed, or a rank has failed.
        """
        if self._failure is not None:
            raise self._failure
        output = StepOutput([])
        while self._num_done < num_done:
            _, report = self._next_report()
            if isinstance(report, Done):
                output = report.output
                self._num_done += 1
        return output

    def close(self) -> None:
        """End the ranks."""
        self._end(EngineError("this engine has been closed"))

    def _started(self) -> tuple[Capacity, LoadedModel, int]:
        """Wait until all ranks have loaded their shares."""
        started: dict[RankProcess, Started] = {}
        while len(started) < len(self._ranks):
            rank, report = self._next_report()
            if isinstance(report, Started):
                started[rank] = report
        first = started[self._ranks[0]]
        return first.capacity, first.loaded, first.depth

    def _next_report(self) -> tuple["RankProcess", Report]:
        """Wait for a report of any rank.

        Raises:
            OctavoError: what one has failed with; all have ended then.
        """
        rank = _with_news(self._ranks)[0]
        with self._unless_interrupted():
            report = rank.receive()
        if isinstance(report, Failed):
            cause = self._cause_of(report, rank)
            error = error_named(cause.kind, cause.message)
            self._end(error)
            raise error
        return rank, report

    def _cause_of(self, failure: Failed, rank: "RankProcess") -> Failed:
        """What is behind a rank's failure: where it has lost another one, that one knows more."""
        others = set(self._ranks) - {rank}
        while failure.kind == LostRankError.__name__ and (told := _with_news(others, BLAME_WAIT_S)):
            report = told[0].receive()
            if isinstance(report, Failed):
                others.remove(told[0])
                failure = report if report.kind != LostRankError.__name__ else failure
        return failure

    @contextlib.contextmanager
    def _unless_interrupted(self) -> Iterator[None]:
        """For messages: half of one, or one that only some ranks have, leaves no way on."""
        try:
            yield
        except BaseException:
            self._end(EngineError("interrupted in the middle of a message to or from the model's processes"))
            raise

    def _end(self, reason: OctavoError) -> None:
        """End all ranks; `reason` is what later steps are told, unless there was one before."""
        self._failure = self._failure or reason
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.close()


class RankProcess:
    """A rank's process and the socket to it."""

    def __init__(self, start: Start) -> None:
        self.rank = start.rank
        self.socket, theirs = Pipe()
        """Readable when there is news: a report, or the process's end."""
        with theirs:
            descriptor = theirs.fileno()
            self.process = lifeline.start("octavo.execution.rank", [str(descriptor)], [descriptor, start.rendezvous])
        self.send(encode(start))

    def send(self, message: bytes) -> None:
        """Send an order; to one that has ended it is lost, and `receive` tells of the end."""
        with contextlib.suppress(OSError):
            self.socket.send_bytes(message)

    def receive(self) -> Report:
        """The next report; of a process that has ended, how."""
        try:
            report: Report = decode_report(self.socket.recv_bytes())
            return report
        except (EOFError, OSError):
            status = self.process.wait()
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        hint = "; the system may be out of memory" if status == -signal.SIGKILL else ""
        return Failed("EngineError", f"rank {self.rank} of the model (process {self.process.pid}) {how}{hint}")

    def close(self) -> None:
        """Take leave of a process that has been told to end."""
        self.process.wait()
        self.socket.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _with_news(ranks: Collection[RankProcess], timeout_s: float | None = None) -> list[RankProcess]:
    """Wait for ranks that have something to say; none once `timeout_s` is over."""
    ready = wait([rank.socket for rank in ranks], timeout_s)
    return [rank for rank in ranks if rank.socket in ready]
