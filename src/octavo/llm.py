"""The offline API: a model, its engine and its tokenizer in this process."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from tqdm import tqdm

from octavo.checkpoints.generation_config import read_sampling_defaults
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import ConfigError, EngineError, RequestError
from octavo.execution.launch import executor_class
from octavo.memory import Ledger
from octavo.output_assembler import OutputAssembler
from octavo.outputs import RequestOutput
from octavo.sampling_params import BeamSearchParams, SamplingParams
from octavo.scheduling.messages import EngineRequest, request_seed
from octavo.tokenization.loading import load_tokenizer, read_pinned_prefix
from octavo.turns import Turns

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or `{"prompt": text}` or `{"prompt_token_ids": ids}`, maybe with a `"cache_salt"`: computed
prefixes are shared between prompts with the same one only."""
Message = Mapping[str, Any]


class LLM:
    """A language model for offline work. Several threads may call it: their requests run together, and each gets what
    it gets alone. A process that was forked off after it was made may not.

        llm = LLM(model="smollm2", kv_cache_memory="1GiB")
        for out in llm.generate(["The capital of France is"], SamplingParams(temperature=0.8, max_tokens=64)):
            print(out.outputs[0].text)

    Args:
        model: alias, folder, GGUF file, or a model on the Hugging Face hub (`organisation/model`).
        **knobs: any field of `octavo.config.EngineConfig`.

    Raises:
        ConfigError: a knob has a value that cannot work.
        ModelError: the model cannot be found, downloaded or read.
    """

    def __init__(self, model: str = "smollm2", **knobs: Any) -> None:
        known = [field.name for field in dataclasses.fields(EngineConfig)]
        if unknown := knobs.keys() - set(known):
            raise ConfigError(f"unknown keyword {', '.join(sorted(unknown))}; LLM takes {', '.join(known)}")
        if isinstance(override := knobs.get("override_generation_config"), Mapping):
            knobs["override_generation_config"] = json.dumps(override, default=repr)
        self.config = EngineConfig(model=model, **knobs)
        local = resolve_model(self.config)
        self.sampling_defaults = read_sampling_defaults(local)
        """What the model's authors recommend (`generation_config`)."""
        self.tokenizer = load_tokenizer(local)
        executor = executor_class(local)(local, progress=sys.stderr.isatty())
        self.loaded = executor.loaded
        """What has been loaded: its bytes, dtype and kernels."""
        self.engine = Engine.configured(executor, self.config)
        for path in self.config.pin_prefix:
            self.engine.pin(read_pinned_prefix(path, self.tokenizer), path)
        self._num_requests = 0
        self._open_requests: dict[str, _Opened] = {}
        self._turns = Turns()
        self._doomed: deque[_Opened] = deque()
        """Requests that are to be aborted at the end of the present turn."""
        self._process_id = os.getpid()

    @classmethod
    def configured(cls, config: EngineConfig) -> Self:
        """A model as the knobs say. Raises as the constructor does."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    def get_default_sampling_params(self) -> SamplingParams:
        """What a call without sampling parameters runs with: the defaults of `generation_config`. Parameters that are
        given are taken as they are."""
        return self.sampling_defaults.applied(SamplingParams(), ())

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts, batched together.

        Args:
            prompts: one prompt or several; a flat list of token ids is one prompt.
            sampling_params: one for all, or one for each prompt; `get_default_sampling_params()` by default.
            use_tqdm: show a progress bar on stderr.

        Returns:
            An output for each prompt, in their order.

        Raises:
            RequestError: a prompt or its parameters are wrong; then none has run.
        """
        return self._run(self._open(_as_list(prompts), sampling_params), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        **template_variables: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, rendered with the model's chat template.

        Args:
            messages: `{"role": ..., "content": ...}` dicts, or a list of such lists.
            template_variables: passed on to the template, `add_generation_prompt` included.

        Raises:
            RequestError: as for `generate`, or the template refuses the messages.
        """
        self._check_process()
        is_batch = isinstance(messages, list | tuple) and any(isinstance(each, list | tuple) for each in messages)
        conversations = messages if is_batch else [messages]
        prompts = [self.tokenizer.encode_chat(each, **template_variables) for each in conversations]
        return self._run(self._open(prompts, sampling_params), use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams | Sequence[BeamSearchParams],
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Search for the likeliest completions of prompts, batched together.

        Args:
            params: one for all, or one for each prompt.

        Returns:
            An output for each prompt, its hypotheses best first, each with its `cumulative_logprob`.

        Raises:
            RequestError: a prompt or its parameters are wrong; then none has run.
        """
        given = [params] if isinstance(params, BeamSearchParams) else list(params)
        if not all(isinstance(each, BeamSearchParams) for each in given):
            raise RequestError("params must be a BeamSearchParams, or a list with one for each prompt")
        each = [own.sampling_params() for own in given]
        return self.generate(prompts, each[0] if isinstance(params, BeamSearchParams) else each, use_tqdm)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> Iterator[OutputAssembler]:
        """Complete prompts and yield each request whenever it has something new.

        Take it with `take_delta()`, or all so far with `output`. Leaving the loop early aborts what has not finished.

        Raises:
            RequestError: as for `generate`, when the first is asked for.
        """
        yield from self._steps(self._open(_as_list(prompts), sampling_params))

    def ledger(self) -> Ledger:
        """The account of the KV memory at this moment."""
        with self._turn():
            return self.engine.ledger()

    def close(self) -> None:
        """Give the weights and the KV cache back to the system. In a forked process that is the other's to do."""
        if os.getpid() == self._process_id:
            with self._turn():
                self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, prompts: Sequence[Prompt], sampling_params: SamplingParams | Sequence[SamplingParams] | None
    ) -> "_Opened":
        """Tokenize and queue all prompts, or none where one is refused."""
        self._check_process()
        params = sampling_params if sampling_params is not None else self.get_default_sampling_params()
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if not all(isinstance(own, SamplingParams) for own in each):
            raise RequestError("sampling_params must be a SamplingParams, or a list with one for each prompt")
        if len(each) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts and {len(each)} sampling_params: give one for all or one for each"
            )
        opened = _Opened()
        try:
            for number, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
                try:
                    self._queue(opened, prompt, own)
                except RequestError as error:
                    raise RequestError(f"prompt {number}: {error}") from error
        except BaseException:
            self._abort(opened)
            raise
        return opened

    def _queue(self, opened: "_Opened", prompt: Prompt, params: SamplingParams) -> None:
        text, token_ids = self._tokenize(prompt)
        arrival_s, salt = time.monotonic(), _cache_salt(prompt)
        with self._turn():
            request_id, seed = str(self._num_requests), request_seed(self.config.seed, self._num_requests)
            assembler = OutputAssembler(self.tokenizer, request_id, text, token_ids, params, arrival_s)
            self.engine.add(EngineRequest(request_id, token_ids, params, arrival_s, seed, cache_salt=salt))
            self._num_requests += 1
            opened.assemblers[request_id] = assembler
            self._open_requests[request_id] = opened

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """A prompt's text, where it is one, and its token ids."""
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                return None, _token_ids(prompt["prompt_token_ids"])
            if "prompt" not in prompt:
                raise RequestError(
                    f'a prompt given as a dict needs "prompt" or "prompt_token_ids", got {sorted(prompt)}'
                )
            prompt = prompt["prompt"]
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode(prompt)
        return None, _token_ids(prompt)

    def _steps(self, opened: "_Opened") -> Iterator[OutputAssembler]:
        """Step the engine until these requests are over; whoever leaves early leaves nothing behind."""
        left = set(opened.assemblers)
        try:
            while left:
                assembler = self._next_ready(opened)
                if assembler is None:
                    continue
                if assembler.finished:
                    left.remove(assembler.request_id)
                yield assembler
        finally:
            self._abort(opened)

    def _next_ready(self, opened: "_Opened") -> OutputAssembler | None:
        """One of these requests that has something new. Without any, a step is made, and there may be none yet."""
        with self._turn():
            if not opened.ready:
                self._step()
            assembler = next(iter(opened.ready), None)
            if assembler is not None:
                del opened.ready[assembler]
            return assembler

    def _step(self) -> None:
        """One step for all open requests; another stream's find their news where that stream looks when it goes on."""
        if not self.engine.has_unfinished:
            raise EngineError("requests were dropped: they were aborted from elsewhere, or a step failed")
        for update in self.engine.step():
            opened = self._open_requests[update.request_id]
            assembler = opened.assemblers[update.request_id]
            for index in assembler.apply(update):
                self.engine.abort(update.request_id, index)
            opened.ready[assembler] = None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Nothing else uses the engine meanwhile."""
        self._check_process()
        with self._turns.turn():
            yield
            while self._doomed:
                self._drop(self._doomed.popleft())

    def _check_process(self) -> None:
        """Refuse to run in a copy of the process: threads and processes of the model are not in it.

        Raises:
            EngineError: this is one.
        """
        if os.getpid() != self._process_id:
            raise EngineError(
                f"this LLM was made in process {self._process_id}, and process {os.getpid()} is a fork of that: make "
                'the LLM in the process that uses it, or start processes with multiprocessing\'s "spawn"'
            )

    def _abort(self, opened: "_Opened") -> None:
        """End what has not finished. A stream may be collected as garbage at any moment, in a turn or in a fork."""
        if os.getpid() != self._process_id:
            return
        self._doomed.append(opened)
        if not self._turns.is_mine:
            with self._turn():
                pass

    def _drop(self, opened: "_Opened") -> None:
        for request_id in opened.assemblers:
            self.engine.abort(request_id)
            self._open_requests.pop(request_id, None)

    def _run(self, opened: "_Opened", use_tqdm: bool) -> list[RequestOutput]:
        num_tokens, start_s = 0, time.monotonic()
        try:
            total = len(opened.assemblers)
            with tqdm(total=total, desc="Requests", unit="request", disable=not use_tqdm, dynamic_ncols=True) as bar:
                for assembler in self._steps(opened):
                    num_tokens += sum(len(delta.token_ids) for delta in assembler.take_delta())
                    if assembler.finished:
                        rate = num_tokens / (time.monotonic() - start_s)
                        bar.set_postfix_str(f"{rate:.0f} output tokens/s", refresh=False)
                        bar.update()
        finally:
            self._abort(opened)
        return [assembler.output for assembler in opened.assemblers.values()]


@dataclasses.dataclass(slots=True)
class _Opened:
    """The requests of one call, and those of them that have something new."""

    assemblers: dict[str, OutputAssembler] = dataclasses.field(default_factory=dict)
    ready: dict[OutputAssembler, None] = dataclasses.field(default_factory=dict)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """One prompt, a flat list of token ids included, becomes a list of one."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, list | tuple):
        raise RequestError(f"prompts must be a prompt or a list of prompts, got {type(prompts).__name__}")
    if prompts and all(isinstance(each, int) for each in prompts):
        return [prompts]
    return prompts


def _cache_salt(prompt: Prompt) -> str | None:
    salt = prompt.get("cache_salt") if isinstance(prompt, Mapping) else None
    if salt is not None and not (isinstance(salt, str) and salt):
        raise RequestError(f"cache_salt must be a text that is not empty, got {salt!r}")
    return salt


def _token_ids(prompt: object) -> list[int]:
    if not isinstance(prompt, list | tuple) or not all(type(token) is int for token in prompt):
        raise RequestError(f"a prompt is a text, a list of token ids or a dict, got {type(prompt).__name__}")
    return list(prompt)
