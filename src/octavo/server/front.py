"""What every endpoint works with: text in, an engine process behind, text out."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from octavo.engine.client import EngineClient, RequestStream
from octavo.engine.wire import Ready
from octavo.output_assembler import Delta, OutputAssembler
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling.admission import resolve_max_tokens
from octavo.scheduling.messages import EngineRequest, RequestUpdate, request_seed
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.template_processes import NUM_PROCESSES
from octavo.tokenization.tokenizer import Tokenizer


class Front:
    """A tokenizer and an engine client.

    Args:
        client: connected.
        tokenizer: the model's.
        ready: what the engine said when it was.
        seed: of requests that bring none.
    """

    def __init__(self, client: EngineClient, tokenizer: Tokenizer, ready: Ready, seed: int) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.ready = ready
        self._seed = seed
        self._num_requests = 0
        # Of their own: a template that hangs keeps nobody waiting but other conversations.
        self._rendering = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="render")

    def close(self) -> None:
        """End what makes prompts of conversations: those that wait for theirs fail."""
        self.tokenizer.close()

    @property
    def longest_sequence(self) -> int:
        """Tokens, prompt and output, that one sequence can have: as the model allows, and the pool."""
        limits = self.ready.limits
        return limits.demand.longest(1, 1, limits.num_blocks, limits.max_model_len)

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, made off the event loop.

        Raises:
            RequestError: the text is not valid Unicode.
        """
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, conversation: Conversation) -> tuple[str, list[int]]:
        """A conversation in the model's chat template, as text and as token ids, made off the event loop.

        Raises:
            RequestError: the messages are malformed, or the template refuses them or takes too long.
        """
        rendering = asyncio.get_running_loop().run_in_executor(self._rendering, self.tokenizer.render, conversation)
        prompt = await rendering
        return prompt.plain, await asyncio.to_thread(self.tokenizer.encode_rendered, prompt)

    def check(self, token_ids: list[int], params: SamplingParams) -> None:
        """Refuse what the engine would, before it is asked.

        Raises:
            RequestError: the request could never run here.
        """
        resolve_max_tokens(token_ids, params, self.ready.limits)

    def generate(
        self,
        prompt: str | None,
        token_ids: list[int],
        params: SamplingParams,
        tenant: str = "",
        cache_salt: str | None = None,
        start_within_s: float | None = None,
    ) -> "Generation":
        """Hand a request that `check` has passed to the engine. Use the result as `async with`: leaving it aborts what
        is not over. Its deltas end in a QueueTimeError where it does not begin within `start_within_s`.

        Raises:
            EngineError: the engine is dead.
        """
        number, self._num_requests = self._num_requests, self._num_requests + 1
        request_id, arrival_s = f"{number}-{uuid.uuid4().hex[:12]}", time.monotonic()
        seed = request_seed(self._seed, number)
        start_by_s = None if start_within_s is None else arrival_s + start_within_s
        request = EngineRequest(
            request_id, token_ids, params, arrival_s, seed, tenant, cache_salt, start_by_s=start_by_s
        )
        stream = self.client.submit(request)
        return Generation(
            self.client, stream, OutputAssembler(self.tokenizer, request_id, prompt, token_ids, params, arrival_s)
        )


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
