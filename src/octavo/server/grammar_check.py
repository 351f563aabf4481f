"""Grammars of requests are tried elsewhere, before anything is done for the request (`grammar_process`)."""

import asyncio
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import msgspec

from octavo.bounded_processes import NUM_PROCESSES, BoundedProcesses, LostProcessError, QuestionTimeError
from octavo.errors import RequestError
from octavo.knobs import flag
from octavo.sampling.grammar_bounds import GrammarBounds
from octavo.server.grammar_process import Question
from octavo.structured_outputs import Grammar
from octavo.tokenization.tokenizer import Tokenizer

NUM_KNOWN = 1024
"""Good grammars that are remembered, those used last."""


class GrammarCheck:
    """Tells which grammars can be followed.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._processes = BoundedProcesses(
            "octavo.server.grammar_process",
            lambda: msgspec.msgpack.encode(tokenizer.grammar_tokens()),
            "try grammars",
        )
        # Of their own: grammars that take long keep nobody waiting but other grammars.
        self._threads = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="grammar-check")
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def close(self) -> None:
        """End the processes: what is being tried fails."""
        self._processes.close()

    async def check(self, grammar: Grammar, bounds: GrammarBounds) -> None:
        """Refuse what cannot be followed, or takes more than it may, off the event loop.

        Raises:
            RequestError: the message says why, and names the flag where there is one.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._check, grammar, bounds)

    def _check(self, grammar: Grammar, bounds: GrammarBounds) -> None:
        bounds.check_size(grammar)
        digest = hashlib.sha256(f"{grammar.kind}:{grammar.source}".encode()).digest()
        if digest not in self._known:
            self._try(grammar, bounds.max_grammar_time)
        self._known[digest] = None
        self._known.move_to_end(digest)
        while len(self._known) > NUM_KNOWN:
            self._known.popitem(last=False)

    def _try(self, grammar: Grammar, max_time_s: float) -> None:
        question = msgspec.msgpack.encode(Question(grammar, max(max_time_s, 0.01)))
        try:
            problem = self._processes.ask(question).decode()
        except QuestionTimeError as error:
            raise RequestError(
                f"it takes more than {max_time_s:g} s to compile: simplify it, or raise {flag('max_grammar_time')}"
            ) from error
        except LostProcessError as error:
            raise RequestError(f"it is too complex: its compiler ended with {error}; simplify it") from error
        if problem:
            raise RequestError(problem)
