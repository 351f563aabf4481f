"""What every endpoint works with: text in, an engine process behind, text out."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import msgspec

from octavo.answers.answer_format import AnswerFormat
from octavo.answers.formats import format_of
from octavo.bounded_processes import NUM_PROCESSES
from octavo.engine.client import EngineClient
from octavo.engine.stream import RequestStream
from octavo.engine.wire import Ready
from octavo.errors import RequestError
from octavo.output_assembler import Delta, OutputAssembler
from octavo.outputs import RequestOutput
from octavo.pooling import NOTHING_SAMPLED
from octavo.sampling_params import SamplingParams
from octavo.scheduling.admission import check_pooled, check_prompt_length, check_wants, resolve_max_tokens
from octavo.scheduling.messages import EngineRequest, RequestUpdate, request_seed
from octavo.server.grammar_check import GrammarCheck
from octavo.structured_outputs import Grammar, ReasoningSection
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.reasoning_marks import reasoning_section, section_behind
from octavo.tokenization.score_prompts import YesNo
from octavo.tokenization.spelled_tokens import Rendered
from octavo.tokenization.tokenizer import Tokenizer

LONG_TEXT = 2**16
"""Characters from which on a text's length is checked before it is tokenized: that takes a tenth of a second."""


class Front:
    """A tokenizer and an engine client.

    Args:
        client: connected.
        tokenizer: the model's.
        ready: what the engine said when it was.
        seed: of requests that bring none; drawn where it is None, so that two servers give different answers.
        tool_parser: the name of the format in which the model writes calls; `auto` where its files tell.
        score_template: as `YesNo` takes it.

    Raises:
        ConfigError: no format has that name.
    """

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        ready: Ready,
        seed: int | None,
        tool_parser: str = "auto",
        score_template: str | None = None,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.ready = ready
        self.answer_format: AnswerFormat = format_of(
            tokenizer.template_for(True), tokenizer.response_template, tool_parser
        )
        """How the model marks reasoning and calls."""
        self._seed = secrets.randbits(63) if seed is None else seed
        self._num_requests = 0
        self.grammars = GrammarCheck(tokenizer)
        self.yes_no = YesNo(tokenizer, score_template)
        # One thread: long texts neither keep short ones waiting nor fill the memory, of which the allocator keeps as
        # much as a text needed for each thread that ever tokenized one.
        self._long_texts = ThreadPoolExecutor(1, thread_name_prefix="long-text")
        # Of their own: a template that hangs keeps nobody waiting but other conversations.
        self._rendering = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="render")

    def close(self) -> None:
        """End what makes prompts of conversations, and what tries grammars: those that wait for it fail."""
        self.tokenizer.close()
        self.grammars.close()

    @property
    def longest_sequence(self) -> int:
        """Tokens, prompt and output, that one sequence can have: as the model allows, and the pool."""
        limits = self.ready.limits
        return limits.demand.longest(1, 1, limits.num_blocks, limits.max_model_len)

    async def tokenize(
        self, text: str, add_special_tokens: bool = True, max_bytes: int | None = None, num_output: int = 1
    ) -> list[int]:
        """Token ids of a text, made off the event loop.

        Args:
            max_bytes: of a text in UTF-8 whose tokens do not all have to fit into the model's context; None where
                they have to.
            num_output: tokens that follow at least, as `check_prompt_length`.

        Raises:
            ContextLengthError: the text is too long for the model, whatever its tokens are.
            RequestError: the text is not valid Unicode, or over `max_bytes`.
        """
        return await self._tokenize(Rendered(text), add_special_tokens, max_bytes, num_output)

    async def tokenize_within(
        self, text: str, most: int, pair: str | None = None, *, keeps_end: bool, max_bytes: int
    ) -> list[int]:
        """As `Tokenizer.encode_within`, of texts up to so many bytes in UTF-8, off the event loop.

        Raises:
            RequestError: as there, or they are longer.
        """

        def encode() -> list[int]:
            _check_bytes(text + (pair or ""), max_bytes)
            return self.tokenizer.encode_within(text, most, pair, keeps_end=keeps_end)

        threads = self._long_texts if len(text) + len(pair or "") > LONG_TEXT else None
        return await asyncio.get_running_loop().run_in_executor(threads, encode)

    async def tokenize_chat(
        self,
        conversation: Conversation,
        add_special_tokens: bool = False,
        max_bytes: int | None = None,
        num_output: int = 1,
    ) -> tuple[str, list[int]]:
        """A conversation in the model's chat template, as text and as token ids, made off the event loop.

        Args:
            add_special_tokens: beside those that the template writes.
            max_bytes, num_output: as `tokenize`.

        Raises:
            ContextLengthError: as `tokenize`.
            RequestError: the messages are malformed, or the template refuses them or takes too long.
        """
        rendering = asyncio.get_running_loop().run_in_executor(self._rendering, self.tokenizer.render, conversation)
        prompt = await rendering
        return prompt.plain, await self._tokenize(prompt, add_special_tokens, max_bytes, num_output)

    async def template_variables(self, chat_template: str | None = None, has_tools: bool = False) -> frozenset[str]:
        """The names of all variables that a chat template may ask for, found off the event loop; kept for the model's.

        Args:
            chat_template: Jinja source in place of the model's own.
            has_tools: of conversations with tools, for which models may have another template.

        Raises:
            RequestError: there is no template, it is not valid Jinja, or it takes too long to read.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._rendering, self.tokenizer.template_variables, chat_template, has_tools
        )

    async def _tokenize(
        self, prompt: Rendered, add_special_tokens: bool, max_bytes: int | None, num_output: int
    ) -> list[int]:
        """Long texts are tokenized one at a time."""
        threads = self._long_texts if len(prompt.text) > LONG_TEXT else None
        encoding = asyncio.get_running_loop().run_in_executor(
            threads, self._encode, prompt, add_special_tokens, max_bytes, num_output
        )
        return await encoding

    def _encode(self, prompt: Rendered, add_special_tokens: bool, max_bytes: int | None, num_output: int) -> list[int]:
        if max_bytes is not None:
            _check_bytes(prompt.plain, max_bytes)
        elif len(prompt.text) > LONG_TEXT:
            least = self.tokenizer.least_tokens(prompt.plain)
            check_prompt_length(least, self.ready.limits, "at least ", num_output)
        return self.tokenizer.encode_rendered(prompt, add_special_tokens)

    def reasoning_section(self, is_open: bool, max_tokens: int | None) -> ReasoningSection | None:
        """What an answer may begin with before anything that it conforms to; None where the model does not reason.

        Args:
            is_open: the prompt has opened it.
            max_tokens: of the section.
        """
        opening, end = self.answer_format.reasoning_opening, self.answer_format.reasoning_end
        if end is None:
            return None
        return reasoning_section(self.tokenizer, opening or "", end, is_open=is_open, max_tokens=max_tokens)

    def check(self, token_ids: list[int], params: SamplingParams) -> None:
        """Refuse what the engine would, before it is asked.

        Raises:
            RequestError: the request could never run here.
        """
        resolve_max_tokens(token_ids, params, self.ready.limits)

    async def prepare(self, params: SamplingParams) -> "PreparedParams":
        """What the prompts of one request share, made off the event loop.

        Raises:
            RequestError: a bad word is not valid Unicode, or longer than any answer.
        """
        threads = self._long_texts if sum(map(len, params.bad_words or ())) > LONG_TEXT else None
        return await asyncio.get_running_loop().run_in_executor(threads, self._prepare, params)

    def _prepare(self, params: SamplingParams) -> "PreparedParams":
        self._check_bad_words(params.bad_words or [])
        # Stop texts are looked for here, where the text is.
        most = self.ready.limits.max_model_len  # any number is taken, and messages to the engine hold 64 bits
        max_tokens = None if params.max_tokens is None else min(params.max_tokens, most)
        for_engine = msgspec.structs.replace(
            params,
            stop=None,
            stop_regex=None,
            bad_words=None,
            bad_words_ids=None,
            structured_outputs=None,
            thinking_token_budget=None,
            max_tokens=max_tokens,
        )
        bad_words = self.tokenizer.bad_words(params.bad_words or ()) + (params.bad_words_ids or [])
        asked = params.structured_outputs
        grammar = None if asked is None else asked.grammar_of_output()
        return PreparedParams(params, for_engine, bad_words, self.tokenizer.special_stops(params), grammar)

    def _check_bad_words(self, words: list[str]) -> None:
        most = self.ready.limits.max_model_len
        for word in words:
            if len(word) > LONG_TEXT and (least := self.tokenizer.least_tokens(word)) > most:
                raise RequestError(
                    f"a text of bad_words has at least {least} tokens, and this model's maximum context length is "
                    f"{most} tokens: no answer could hold it, leave it out"
                )

    def generate(
        self,
        prompt: str | None,
        token_ids: list[int],
        prepared: "PreparedParams",
        tenant: str = "",
        cache_salt: str | None = None,
        start_within_s: float | None = None,
        reasoning: ReasoningSection | None = None,
        kept_specials: Collection[str] = (),
        priority: int = 0,
        prediction: Sequence[int] = (),
    ) -> "Generation":
        """Hand a request that `check` has passed to the engine. Use the result as `async with`: leaving it aborts what
        is not over. Its deltas end in a QueueTimeError where it does not begin within `start_within_s`.

        Args:
            reasoning: what outputs may begin with, before their grammar does, and how long that may be. Without one a
                section that the prompt has opened is found by its usual marks.
            kept_specials: special tokens that are part of one of these stay in the text.
            prediction: tokens that outputs may resemble.

        Raises:
            EngineError: the engine is dead.
            RequestError: `params.thinking_token_budget` is given and `reasoning` is not, and the model has no marks.
        """
        if reasoning is None:
            budget, is_constrained = prepared.params.thinking_token_budget, prepared.grammar is not None
            reasoning = section_behind(self.tokenizer, token_ids, budget, is_constrained=is_constrained)
        request = EngineRequest(
            "",
            token_ids,
            prepared.for_engine,
            time.monotonic(),
            tenant=tenant,
            cache_salt=cache_salt,
            grammar=prepared.grammar,
            bad_words=prepared.bad_words,
            reasoning=reasoning,
            priority=priority,
            prediction=list(prediction),
        )
        special_stops = prepared.special_stops
        return self._submit(request, prompt, prepared.params, special_stops, start_within_s, kept_specials)

    def pool(self, request: EngineRequest, prompt: str | None, start_within_s: float | None = None) -> "Generation":
        """Hand a request that pools to the engine, as `generate` does; `check_pooled` has passed it. Its output has
        numbers in place of a text.

        Raises:
            EngineError: the engine is dead.
        """
        return self._submit(request, prompt, NOTHING_SAMPLED, frozenset(), start_within_s)

    def check_pooled(self, request: EngineRequest) -> None:
        """Refuse what the engine would of requests that pool.

        Raises:
            RequestError: the request could never run here.
        """
        check_wants(request, self.ready.limits.capabilities)
        check_pooled(request, self.ready.limits)

    def _submit(
        self,
        request: EngineRequest,
        prompt: str | None,
        params: SamplingParams,
        special_stops: frozenset[str],
        start_within_s: float | None,
        kept_specials: Collection[str] = (),
    ) -> "Generation":
        number, self._num_requests = self._num_requests, self._num_requests + 1
        request_id, arrival_s = f"{number}-{uuid.uuid4().hex[:12]}", time.monotonic()
        start_by_s = None if start_within_s is None else arrival_s + start_within_s
        request = msgspec.structs.replace(
            request,
            request_id=request_id,
            arrival_s=arrival_s,
            seed=request_seed(self._seed, number),
            start_by_s=start_by_s,
        )
        stream = self.client.submit(request)
        assembler = OutputAssembler(
            self.tokenizer,
            request_id,
            prompt,
            request.prompt_token_ids,
            params,
            arrival_s,
            special_stops,
            kept_specials,
        )
        return Generation(self.client, stream, assembler)


@dataclass(frozen=True, slots=True)
class PreparedParams:
    """A request's parameters, and what the engine is given of them."""

    params: SamplingParams
    for_engine: SamplingParams
    bad_words: list[list[int]]
    """The token ids of `params.bad_words`, and `params.bad_words_ids`."""
    special_stops: frozenset[str]
    grammar: Grammar | None
    """What every output conforms to."""


class Generation:
    """One request in flight."""

    def __init__(self, client: EngineClient, stream: RequestStream, assembler: OutputAssembler) -> None:
        self._client = client
        self._stream = stream
        self._assembler = assembler

    @property
    def output(self) -> RequestOutput:
        """All so far."""
        return self._assembler.output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.abort(self._stream)

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """What the sequences gain, step by step, until all are over. Steps that wait for a slow reader come as one.

        Raises:
            OctavoError: the engine refused the request or died.
        """
        async for update in self._stream:
            self._apply(update)
            for waiting in self._stream.take_ready():
                self._apply(waiting)
            if deltas := self._assembler.take_delta():
                yield deltas

    def _apply(self, update: RequestUpdate) -> None:
        for index in self._assembler.apply(update):
            self._client.abort(self._stream, index)


def _check_bytes(text: str, most: int) -> None:
    num_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if num_bytes > most:
        raise RequestError(
            f"the prompt has {num_bytes} bytes, over this server's cap of {most} on texts that need not fit into the "
            "model's context: raise --max-tokenize-bytes"
        )
