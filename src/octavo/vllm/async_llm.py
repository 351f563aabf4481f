"""`AsyncLLM`: an `LLMEngine` in a thread of its own, for callers with an event loop."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from octavo.errors import EngineError
from octavo.inputs import Prompt
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.vllm.engine_args import EngineArgs
from octavo.vllm.llm_engine import LLMEngine
from octavo.vllm.tokenizer import NamedTokenizer

Deliver = Callable[[RequestOutput | Exception], None]
"""Hands a request's news to its caller's loop."""


class AsyncLLM:
    """Requests of any number of coroutines, in any loop, batched together.

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model="smollm2"))
    async for output in engine.generate("The capital of France is", SamplingParams(max_tokens=8), request_id="a"): ...
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """What the thread does between two steps; None ends it."""
        self._deliver: dict[str, Deliver] = {}
        self._thread = threading.Thread(target=self._work, name="AsyncLLM", daemon=True)
        self._thread.start()

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, **_: Any) -> Self:
        """An engine with a model of its own, loaded when this returns. Raises as `LLMEngine.from_engine_args`."""
        return cls(LLMEngine.from_engine_args(engine_args))

    async def generate(
        self, prompt: Prompt, sampling_params: SamplingParams, request_id: str, **keywords: Any
    ) -> AsyncIterator[RequestOutput]:
        """Complete a prompt, and tell of it as its `output_kind` says. Leaving the loop early ends the request.

        Args:
            keywords: those of `LLMEngine.add_request`, as `priority`.

        Raises:
            RequestError: it can never be served here, or its name is in use.
            EngineError: the engine has failed, or is shut down.
        """
        news: asyncio.Queue[RequestOutput | Exception] = asyncio.Queue()
        loop, params = asyncio.get_running_loop(), sampling_params
        self._check_alive()

        def deliver(item: RequestOutput | Exception) -> None:
            try:
                loop.call_soon_threadsafe(news.put_nowait, item)
            except RuntimeError:  # The loop has ended, and its request with it.
                self._deliver.pop(request_id, None)
                self._engine.abort_request(request_id)

        self._commands.put(lambda: self._add(request_id, prompt, params, keywords, deliver))
        is_over = False
        try:
            while not is_over:
                item = await news.get()
                is_over = isinstance(item, Exception) or item.finished
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not is_over:
                self._commands.put(lambda: self._abort(request_id, deliver))

    async def abort(self, request_id: str) -> None:
        """End a request; its `generate` ends with an output whose `finish_reason` is "abort"."""
        self._commands.put(lambda: self._abort(request_id, None))

    async def reset_prefix_cache(self) -> bool:
        """As `LLM.reset_prefix_cache`."""
        return await asyncio.to_thread(self._engine.reset_prefix_cache)

    async def get_tokenizer(self) -> NamedTokenizer:
        """The model's, as `LLM.get_tokenizer` gives it."""
        return self._engine.get_tokenizer()

    async def check_health(self) -> None:
        """Raises EngineError where the engine is shut down."""
        self._check_alive()

    def shutdown(self) -> None:
        """End what runs, and give the model's memory back."""
        if self._thread.is_alive():
            self._commands.put(None)
            self._thread.join()
            self._engine.close()

    def _check_alive(self) -> None:
        if not self._thread.is_alive():
            raise EngineError("this AsyncLLM has been shut down: make another")

    def _add(
        self, request_id: str, prompt: Prompt, params: SamplingParams, keywords: dict[str, Any], deliver: Deliver
    ) -> None:
        try:
            self._engine.add_request(request_id, prompt, params, **keywords)
            self._deliver[request_id] = deliver
        except Exception as error:  # It is the caller's.
            deliver(error)

    def _abort(self, request_id: str, of: Deliver | None) -> None:
        """End a request, if it is still the one that `of` delivers for; None is any."""
        deliver = self._deliver.get(request_id)
        if deliver is None or of not in (None, deliver):
            return
        del self._deliver[request_id]
        for output in self._engine.abort_request(request_id):
            deliver(output)

    def _work(self) -> None:
        """The thread: commands as they come, and steps while there is something to do."""
        while True:
            while not (self._commands.empty() and self._engine.has_unfinished_requests()):
                command = self._commands.get()
                if command is None:
                    self._end_all(EngineError("the engine has been shut down"))
                    return
                command()
            try:
                outputs = self._engine.step()
            except Exception as error:  # Whatever a step failed of, who waits must be told.
                self._end_all(error)
                continue
            for output in outputs:
                deliver = self._deliver[output.request_id]
                if output.finished:
                    del self._deliver[output.request_id]
                deliver(output)

    def _end_all(self, error: Exception) -> None:
        for request_id, deliver in list(self._deliver.items()):
            del self._deliver[request_id]
            self._engine.abort_request(request_id)
            deliver(error)


AsyncLLMEngine = AsyncLLM
"""Its older name."""
