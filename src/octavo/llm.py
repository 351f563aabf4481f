"""The offline API: a model, its engine and its tokenizer in this process."""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import ConfigError, RequestError
from octavo.execution.local import LocalExecutor
from octavo.memory import Ledger
from octavo.models.weights.locate import Checkpoint, locate
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest
from octavo.tokenization.assembler import OutputAssembler
from octavo.tokenization.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, or `{"prompt": text}` or `{"prompt_token_ids": ids}`."""
Message = Mapping[str, Any]


class LLM:
    """A language model for offline work, from one thread.

        llm = LLM(model="smollm2", kv_cache_memory="1GiB")
        for out in llm.generate(["The capital of France is"], SamplingParams(temperature=0.8, max_tokens=64)):
            print(out.outputs[0].text)

    Args:
        model: alias, folder or GGUF file.
        **knobs: any field of `octavo.config.EngineConfig`.

    Raises:
        ConfigError: a knob has a value that cannot work.
        ModelError: the model cannot be found or read.
    """

    def __init__(self, model: str = "smollm2", **knobs: Any) -> None:
        known = [field.name for field in dataclasses.fields(EngineConfig)]
        if unknown := knobs.keys() - set(known):
            raise ConfigError(f"unknown keyword {', '.join(sorted(unknown))}; LLM takes {', '.join(known)}")
        self.config = EngineConfig(model=model, **knobs)
        self.tokenizer = load_tokenizer(self.config)
        self.engine = Engine(
            LocalExecutor(self.config, progress=sys.stderr.isatty()),
            max_num_seqs=self.config.max_num_seqs,
            max_num_batched_tokens=self.config.max_num_batched_tokens,
            max_logprobs=self.config.max_logprobs,
        )
        self._num_requests = 0
        self._open_requests: dict[str, tuple[OutputAssembler, dict[OutputAssembler, None]]] = {}

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts, batched together.

        Args:
            prompts: one prompt or several; a flat list of token ids is one prompt.
            sampling_params: one for all, or one for each prompt.
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
        is_batch = isinstance(messages, list | tuple) and any(isinstance(each, list | tuple) for each in messages)
        conversations = messages if is_batch else [messages]
        prompts = [self.tokenizer.encode_chat(each, **template_variables) for each in conversations]
        return self._run(self._open(prompts, sampling_params), use_tqdm)

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
        return self.engine.ledger()

    def close(self) -> None:
        """Give the weights and the KV cache back to the system."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, prompts: Sequence[Prompt], sampling_params: SamplingParams | Sequence[SamplingParams] | None
    ) -> dict[str, OutputAssembler]:
        """Tokenize and queue all prompts, or none where one is refused."""
        params = sampling_params if sampling_params is not None else SamplingParams()
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts and {len(each)} sampling_params: give one for all or one for each"
            )
        opened: dict[str, OutputAssembler] = {}
        try:
            for number, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
                text, token_ids = self._tokenize(prompt)
                try:
                    assembler = self._queue(text, token_ids, own)
                except RequestError as error:
                    raise RequestError(f"prompt {number}: {error}") from error
                opened[assembler.output.request_id] = assembler
        except BaseException:
            self._abort(opened)
            raise
        return opened

    def _queue(self, text: str | None, token_ids: list[int], params: SamplingParams) -> OutputAssembler:
        arrival_s = time.monotonic()
        request_id = str(self._num_requests)
        self.engine.add(
            EngineRequest(request_id, token_ids, params, arrival_s, _own_seed(self.config.seed, self._num_requests))
        )
        self._num_requests += 1
        return OutputAssembler(self.tokenizer, request_id, text, token_ids, params, arrival_s)

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" not in prompt and "prompt" not in prompt:
                raise RequestError(
                    f'a prompt given as a dict needs "prompt" or "prompt_token_ids", got {sorted(prompt)}'
                )
            prompt = prompt["prompt_token_ids"] if "prompt_token_ids" in prompt else prompt["prompt"]
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode(prompt)
        if not isinstance(prompt, Sequence) or not all(type(token) is int for token in prompt):
            raise RequestError(f"a prompt is a text, a list of token ids or a dict, got {type(prompt).__name__}")
        return None, [int(token) for token in prompt]

    def _steps(self, opened: dict[str, OutputAssembler]) -> Iterator[OutputAssembler]:
        """Step the engine until these requests are over; whoever leaves early leaves nothing behind."""
        ready: dict[OutputAssembler, None] = {}
        self._open_requests.update((request_id, (assembler, ready)) for request_id, assembler in opened.items())
        left = set(opened)
        try:
            while left:
                while not ready:
                    self._step()
                assembler = next(iter(ready))
                del ready[assembler]
                if assembler.finished:
                    left.remove(assembler.request_id)
                yield assembler
        finally:
            self._abort(opened)

    def _step(self) -> None:
        """One step for all open requests; another stream's find their news where that stream looks when it goes on."""
        for update in self.engine.step():
            assembler, ready = self._open_requests[update.request_id]
            for index in assembler.apply(update):
                self.engine.abort(update.request_id, index)
            ready[assembler] = None

    def _abort(self, opened: Iterable[str]) -> None:
        for request_id in opened:
            self.engine.abort(request_id)
            self._open_requests.pop(request_id, None)

    def _run(self, opened: dict[str, OutputAssembler], use_tqdm: bool) -> list[RequestOutput]:
        num_tokens = 0
        start_s = time.monotonic()
        with tqdm(total=len(opened), desc="Requests", unit="request", disable=not use_tqdm, dynamic_ncols=True) as bar:
            for assembler in self._steps(opened):
                num_tokens += sum(len(delta.token_ids) for delta in assembler.take_delta())
                if assembler.finished:
                    bar.set_postfix_str(
                        f"{num_tokens / (time.monotonic() - start_s):.0f} output tokens/s", refresh=False
                    )
                    bar.update()
        return [assembler.output for assembler in opened.values()]


def load_tokenizer(config: EngineConfig) -> Tokenizer:
    """The tokenizer of a model, or the one that `--tokenizer` names, with `--chat-template` over its own.

    Raises:
        ModelError: it cannot be found or read.
    """
    checkpoint: Checkpoint = locate(config.tokenizer or config.model)
    template = _read_text(config.chat_template, "--chat-template") if config.chat_template else None
    if checkpoint.format == "gguf":
        return Tokenizer.from_gguf(checkpoint.path, template)
    return Tokenizer.from_folder(checkpoint.path, template)


def _read_text(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} {path} cannot be read: {error}") from error


def _as_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """One prompt, a flat list of token ids included, becomes a list of one."""
    if isinstance(prompts, str | Mapping) or (prompts and all(isinstance(each, int) for each in prompts)):
        return [prompts]  # type: ignore[list-item]
    return prompts  # type: ignore[return-value]


def _own_seed(seed: int, number: int) -> int:
    """The seed of a request that brings none: another for each request, the same in every run."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest())
