"""An engine that the calls of one process share, from several threads if need be. Whoever waits for requests of its own
makes steps, in turns with the others, and each step serves all requests."""

import contextlib
import dataclasses
import os
import time
import weakref
from collections import deque
from collections.abc import Iterator

import msgspec

from octavo.engine.engine import Engine
from octavo.errors import EngineError
from octavo.inputs import Prompt, read_prompt
from octavo.memory import Ledger
from octavo.metrics.offline import OfflineMetrics
from octavo.output_assembler import OutputAssembler
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest, request_seed
from octavo.structured_outputs import Grammar, StructuredOutputsParams
from octavo.tokenization.reasoning_marks import section_behind
from octavo.tokenization.tokenizer import Tokenizer
from octavo.turns import Turns


@dataclasses.dataclass(slots=True)
class OpenRequests:
    """Requests that are waited for together, as those of one call are, and those of them that have something new."""

    assemblers: dict[str, OutputAssembler] = dataclasses.field(default_factory=dict)
    ready: dict[OutputAssembler, None] = dataclasses.field(default_factory=dict)


class SharedEngine:
    """Texts in, texts out, over one engine.

    Args:
        metrics: counts all requests.
        seed: of the requests that bring none.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, metrics: OfflineMetrics, seed: int) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._seed = seed
        self._num_requests = 0
        self._opened: dict[str, OpenRequests] = {}
        self._turns = Turns()
        self._doomed: deque[OpenRequests] = deque()
        """Requests that are to be aborted at the end of the present turn."""
        self._process_id = os.getpid()
        weakref.finalize(self, _end, engine, self._turns, self._process_id)

    @property
    def is_own(self) -> bool:
        """Whether this is the process that made it, and no fork of that."""
        return os.getpid() == self._process_id

    def check_process(self) -> None:
        """Refuse to run in a copy of the process: threads and processes of the model are not in it.

        Raises:
            EngineError: this is one.
        """
        if not self.is_own:
            raise EngineError(
                f"this LLM was made in process {self._process_id}, and process {os.getpid()} is a fork of that: make "
                'the LLM in the process that uses it, or start processes with multiprocessing\'s "spawn"'
            )

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Nothing else uses the engine meanwhile. A turn has no turn within it.

        Raises:
            EngineError: this process is a fork.
        """
        self.check_process()
        with self._turns.turn():
            yield
            while self._doomed:
                opened = self._doomed.popleft()
                for request_id in list(opened.assemblers):
                    self._end(opened.assemblers[request_id])

    def queue(self, opened: OpenRequests, prompt: Prompt, params: SamplingParams, priority: int = 0) -> str:
        """Tokenize a prompt and hand it to the engine, with these requests. Returns its name there.

        Args:
            priority: as `EngineRequest` has it.

        Raises:
            RequestError: it can never be served here.
            EngineError: this process is a fork.
        """
        read = read_prompt(prompt, self._tokenizer)
        bad_words = self._tokenizer.bad_words(params.bad_words or ()) + (params.bad_words_ids or [])
        grammar = None if params.structured_outputs is None else _checked_grammar(params.structured_outputs)
        budget = params.thinking_token_budget
        section = section_behind(self._tokenizer, read.token_ids, budget, is_constrained=grammar is not None)
        arrival_s = time.monotonic()
        with self.turn():
            request_id, seed = str(self._num_requests), request_seed(self._seed, self._num_requests)
            assembler = OutputAssembler(self._tokenizer, request_id, read.text, read.token_ids, params, arrival_s)
            self._engine.add(
                EngineRequest(
                    request_id,
                    read.token_ids,
                    msgspec.structs.replace(params, structured_outputs=None, thinking_token_budget=None),
                    arrival_s,
                    seed,
                    cache_salt=read.cache_salt,
                    grammar=grammar,
                    bad_words=bad_words,
                    reasoning=section,
                    priority=priority,
                )
            )
            self._metrics.note_start(request_id, params)
            self._num_requests += 1
            opened.assemblers[request_id] = assembler
            self._opened[request_id] = opened
        return request_id

    def steps(self, opened: OpenRequests) -> Iterator[OutputAssembler]:
        """Step the engine until these requests are over, and give each whenever it has something new; whoever leaves
        early leaves nothing behind."""
        left = set(opened.assemblers)
        try:
            while left:
                for assembler in self.take_ready(opened):
                    opened.ready.pop(assembler, None)  # what another thread's step gave it meanwhile is taken with it
                    if assembler.finished:
                        left.discard(assembler.request_id)
                    yield assembler
        finally:
            self.abort(opened)

    def take_ready(self, opened: OpenRequests) -> list[OutputAssembler]:
        """All of these requests that have something new. Without any, a step is made, and there may be none yet."""
        with self.turn():
            # A step of another call's may have served these requests, even to their end.
            if not opened.ready:
                self._step()
            ready = list(opened.ready)
            opened.ready.clear()
            return ready

    def drop(self, opened: OpenRequests, request_id: str) -> None:
        """End a request, whatever its state, and forget it."""
        with self.turn():
            assembler = opened.assemblers.pop(request_id)
            opened.ready.pop(assembler, None)
            self._end(assembler)

    def abort(self, opened: OpenRequests) -> None:
        """End what has not finished. A stream may be collected as garbage at any moment, in a turn or in a fork."""
        if not self.is_own:
            return
        self._doomed.append(opened)
        if not self._turns.is_mine:
            with self.turn():
                pass

    def reset_prefix_cache(self) -> bool:
        """As `Engine.reset_prefix_cache`."""
        with self.turn():
            return self._engine.reset_prefix_cache()

    def ledger(self) -> Ledger:
        """The account of the KV memory at this moment."""
        with self.turn():
            return self._engine.ledger()

    def close(self) -> None:
        """Give the weights and the KV cache back to the system, and end the processes of chat templates. Requests from
        now on are refused. In a forked process that is the other's to do."""
        if self.is_own:
            self._tokenizer.close()
            with self.turn():
                self._engine.close()

    def _step(self) -> None:
        """One step for all requests; those of others find their news where they are looked for."""
        if not self._engine.has_unfinished:
            raise EngineError("requests were dropped: they were aborted from elsewhere, or a step failed")
        for update in self._engine.step():
            opened = self._opened[update.request_id]
            assembler = opened.assemblers[update.request_id]
            for index in assembler.apply(update):
                self._engine.abort(update.request_id, index)
            self._metrics.note_update(assembler, update)
            opened.ready[assembler] = None

    def _end(self, assembler: OutputAssembler) -> None:
        self._engine.abort(assembler.request_id)
        self._opened.pop(assembler.request_id, None)
        self._metrics.note_end(assembler)


def _checked_grammar(asked: StructuredOutputsParams) -> Grammar:
    """What outputs conform to, as the engine is told.

    Raises:
        RequestError: it is wrong.
    """
    from octavo.sampling.grammar_sources import check_grammar  # most calls have none

    grammar = asked.grammar_of_output()
    check_grammar(grammar)
    return grammar


def _end(engine: Engine, turns: Turns, process_id: int) -> None:
    """Close an engine that nobody has closed, when it is forgotten or Python exits. Python ends daemon threads wherever
    they are, and the process is aborted with them where that is in a kernel: so the step that runs is waited for, and
    there is none after it."""
    if os.getpid() == process_id:
        turns.stop()
        engine.close()
