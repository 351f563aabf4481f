"""`LLMEngine`: an `LLM` for callers who add requests and step the engine themselves."""

import dataclasses
from typing import Any, Self

from octavo.errors import RequestError
from octavo.inputs import Prompt
from octavo.llm import LLM
from octavo.output_assembler import Delta, OutputAssembler
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.shared_engine import OpenRequests
from octavo.vllm.engine_args import EngineArgs
from octavo.vllm.keywords import check_call
from octavo.vllm.tokenizer import NamedTokenizer


class LLMEngine:
    """Requests under names of the caller's, one step at a time.

    engine = LLMEngine.from_engine_args(EngineArgs(model="smollm2"))
    engine.add_request("a", "The capital of France is", SamplingParams(max_tokens=8))
    while engine.has_unfinished_requests():
        for output in engine.step(): ...
    """

    def __init__(self, llm: LLM) -> None:
        # Not the LLM, which has this engine: it is gone when its user lets it go.
        self.config = llm.config
        self._shared = llm.shared
        self._tokenizer = llm.tokenizer
        self._opened = OpenRequests()
        self._own_ids: dict[str, str] = {}
        """The `LLM`'s names of requests by the caller's, and the other way round."""
        self._names: dict[str, str] = {}
        self._kinds: dict[str, RequestOutputKind] = {}

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, **_: Any) -> Self:
        """An engine with a model of its own. What else vLLM's takes (`usage_context`, `stat_loggers`) is left alone.

        Raises:
            ConfigError: a keyword cannot work.
            ModelError: the model cannot be found, downloaded or read.
        """
        return cls(LLM(**vars(engine_args)))

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        arrival_time: float | None = None,
        priority: int = 0,
        **keywords: Any,
    ) -> str:
        """Queue a request. Returns its name.

        Args:
            arrival_time: left alone: a request arrives with this call.
            priority: with `scheduling_policy="priority"`: the lowest goes first.

        Raises:
            RequestError: it can never be served here, or its name is in use.
        """
        check_call(keywords, "LLMEngine.add_request")
        if not isinstance(params, SamplingParams):
            raise RequestError(f"params must be a SamplingParams, got {type(params).__name__}")
        if request_id in self._own_ids:
            raise RequestError(f"request_id {request_id!r} is that of a request that is not over")
        params = params.clone()
        own_id = self._shared.queue(self._opened, prompt, params, priority)
        self._own_ids[request_id], self._names[own_id], self._kinds[own_id] = own_id, request_id, params.output_kind
        return request_id

    def step(self) -> list[RequestOutput]:
        """One step. Returns what it gave these requests, as their `output_kind` says; nothing where there are none.

        Raises:
            OctavoError: the step has failed, and all requests have ended.
        """
        if not self.has_unfinished_requests():
            return []
        try:
            ready = self._shared.take_ready(self._opened)
        except BaseException:
            self.abort_request(list(self._own_ids))
            raise
        outputs = [self._told(assembler) for assembler in ready]
        return [output for output in outputs if output is not None]

    def abort_request(self, request_ids: str | list[str], internal: bool = False) -> list[RequestOutput]:
        """End requests; no step tells of them any more. One that is over already, or unknown, is left alone.

        Returns:
            The last output of each, with `finish_reason` "abort".
        """
        names = [request_ids] if isinstance(request_ids, str) else request_ids
        own_ids = [self._own_ids[name] for name in names if name in self._own_ids]
        return [output for own_id in own_ids if (output := self._aborted(own_id)) is not None]

    def has_unfinished_requests(self) -> bool:
        return bool(self._own_ids)

    def get_num_unfinished_requests(self) -> int:
        return len(self._own_ids)

    def reset_prefix_cache(self) -> bool:
        """As `LLM.reset_prefix_cache`."""
        return self._shared.reset_prefix_cache()

    def get_tokenizer(self) -> NamedTokenizer:
        """The model's, as `LLM.get_tokenizer` gives it."""
        return NamedTokenizer(self._tokenizer)

    def close(self) -> None:
        """Give the model's memory back, as `LLM.close` does."""
        self._shared.close()

    def _told(self, assembler: OutputAssembler) -> RequestOutput | None:
        own_id = assembler.request_id
        output = told(assembler, self._kinds[own_id])
        if output is not None:
            output.request_id = self._names[own_id]
        if assembler.finished:
            self._shared.drop(self._opened, own_id)
            self._forget(own_id)
        return output

    def _aborted(self, own_id: str) -> RequestOutput | None:
        assembler = self._opened.assemblers[own_id]
        for sequence in assembler.output.outputs:
            sequence.finish_reason = sequence.finish_reason or "abort"
        return self._told(assembler)

    def _forget(self, own_id: str) -> None:
        del self._own_ids[self._names.pop(own_id)], self._kinds[own_id]


def told(assembler: OutputAssembler, kind: RequestOutputKind) -> RequestOutput | None:
    """A request's output as one kind tells it, the caller's to keep; None where there is nothing to tell yet."""
    if kind is RequestOutputKind.FINAL_ONLY and not assembler.finished:
        return None
    output = assembler.output
    if kind is RequestOutputKind.DELTA:
        return _new_part(assembler, output)
    return dataclasses.replace(output, outputs=[_copied(each) for each in output.outputs])


def _new_part(assembler: OutputAssembler, output: RequestOutput) -> RequestOutput | None:
    """What is new. Sequences that go on are in it even where they have nothing new, as it is `finished` when all in it
    are."""
    deltas = {delta.index: delta for delta in assembler.take_delta()}
    parts = []
    for whole in output.outputs:
        if (delta := deltas.get(whole.index)) is not None:
            fields: dict[str, Any] = {name: getattr(delta, name) for name in _OF_A_DELTA}
            parts.append(CompletionOutput(**fields, cumulative_logprob=whole.cumulative_logprob))
        elif not whole.finished:
            parts.append(CompletionOutput(whole.index))
    return dataclasses.replace(output, outputs=parts) if deltas else None


_OF_A_DELTA = [field.name for field in dataclasses.fields(Delta)]


def _copied(output: CompletionOutput) -> CompletionOutput:
    logprobs = None if output.logprobs is None else list(output.logprobs)
    return dataclasses.replace(output, token_ids=list(output.token_ids), logprobs=logprobs)
