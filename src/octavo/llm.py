"""The offline API: a model, its engine and its tokenizer in this process."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from octavo.checkpoints.generation_config import read_sampling_defaults
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import RequestError
from octavo.execution.launch import executor_class
from octavo.inputs import Prompt, as_list
from octavo.memory import Ledger
from octavo.metrics.offline import OfflineMetrics
from octavo.output_assembler import OutputAssembler
from octavo.outputs import RequestOutput
from octavo.sampling_params import BeamSearchParams, SamplingParams
from octavo.shared_engine import OpenRequests, SharedEngine
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.loading import load_tokenizer, read_pinned_prefix
from octavo.vllm.beams import beam_sequences
from octavo.vllm.engine_args import engine_knobs
from octavo.vllm.keywords import METHODS, check_call

if TYPE_CHECKING:
    from octavo.vllm.llm_engine import LLMEngine
    from octavo.vllm.metrics import Metric
    from octavo.vllm.tokenizer import NamedTokenizer

Message = Mapping[str, Any]


class LLM:
    """A language model for offline work. Several threads may call it: their requests run together, and each gets what
    it gets alone. A process that was forked off after it was made may not.

        llm = LLM(model="smollm2", kv_cache_memory="1GiB")
        for out in llm.generate(["The capital of France is"], SamplingParams(temperature=0.8, max_tokens=64)):
            print(out.outputs[0].text)

    Args:
        model: alias, folder, GGUF file, or a model on the Hugging Face hub (`organisation/model`).
        **knobs: any field of `octavo.config.EngineConfig`, or a keyword of vLLM's (`octavo.vllm.keywords`).

    Raises:
        ConfigError: a knob has a value that cannot work.
        ModelError: the model cannot be found, downloaded or read.
    """

    def __init__(self, model: str = "smollm2", **knobs: Any) -> None:
        self.config = EngineConfig(**engine_knobs({"model": model, **knobs}))
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
        self._metrics = OfflineMetrics(self.engine, self.config.model)
        self.shared = SharedEngine(self.engine, self.tokenizer, self._metrics, self.config.seed or 0)

    @classmethod
    def configured(cls, config: EngineConfig) -> Self:
        """A model as the knobs say. Raises as the constructor does."""
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})

    def get_default_sampling_params(self) -> SamplingParams:
        """What a call without sampling parameters runs with: the defaults of `generation_config`; yours to
        change. Parameters that are given are taken as they are."""
        return self.sampling_defaults.applied(SamplingParams(), ())

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        priority: Sequence[int] | None = None,
        **keywords: Any,
    ) -> list[RequestOutput]:
        """Complete prompts, batched together.

        Args:
            prompts: one prompt or several; a flat list of token ids is one prompt.
            sampling_params: one for all, or one for each prompt; `get_default_sampling_params()` by default.
            use_tqdm: show a progress bar on stderr.
            priority: with `scheduling_policy="priority"` a number for each prompt: the lowest goes first.
            keywords: vLLM's, where they ask for nothing: `lora_request=None`.

        Returns:
            An output for each prompt, in their order.

        Raises:
            RequestError: a prompt or its parameters are wrong; then none has run.
        """
        check_call(keywords, "LLM.generate")
        return self._run(self._open(as_list(prompts), sampling_params, priority), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation or several, rendered with the model's chat template.

        Args:
            messages: `{"role": ..., "content": ...}` dicts, or a list of such lists. Assistants' turns may have
                `tool_calls`, whose answers are turns of the role `tool`, and `reasoning_content`.
            add_generation_prompt: open the model's answer, as is done unless the last message is gone on with.
            continue_final_message: go on with the last message's text.
            chat_template: Jinja source in place of the model's own.
            tools: `{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}` dicts, the
                parameters a JSON schema. A template without a place for them has the system message tell of them. The
                model's calls come as text, in the form that it knows.
            chat_template_kwargs: further variables of the template.
            keywords: vLLM's, where they ask for nothing.

        Raises:
            RequestError: as for `generate`, or the template refuses the messages.
        """
        self.shared.check_process()
        check_call(keywords, "LLM.chat")
        is_batch = isinstance(messages, list | tuple) and any(isinstance(each, list | tuple) for each in messages)
        conversations = messages if is_batch else [messages]
        variables = {**(chat_template_kwargs or {}), **({"tools": tools} if tools else {})}
        if add_generation_prompt is None:
            add_generation_prompt = not continue_final_message
        asked = [
            Conversation(
                messages=each,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                chat_template=chat_template,
                variables=variables,
            )
            for each in conversations
        ]
        prompts = [self._rendered(each) for each in asked]
        return self._run(self._open(prompts, sampling_params), use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams | Sequence[BeamSearchParams],
        use_tqdm: bool = True,
        **keywords: Any,
    ) -> list[RequestOutput]:
        """Search for the likeliest completions of prompts, batched together.

        Args:
            params: one for all, or one for each prompt.

        Returns:
            An output for each prompt, its hypotheses best first, each with its `cumulative_logprob`; with their prompt
            they are its `sequences`.

        Raises:
            RequestError: a prompt or its parameters are wrong; then none has run.
        """
        given = [params] if isinstance(params, BeamSearchParams) else params
        if not isinstance(given, Sequence) or not all(isinstance(each, BeamSearchParams) for each in given):
            raise RequestError("params must be a BeamSearchParams, or a list with one for each prompt")
        each = [own.sampling_params() for own in given]
        check_call(keywords, "LLM.beam_search")
        outputs = self.generate(prompts, each[0] if isinstance(params, BeamSearchParams) else each, use_tqdm)
        for output in outputs:
            output.sequences = beam_sequences(output, self.tokenizer)
        return outputs

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
        yield from self.shared.steps(self._open(as_list(prompts), sampling_params))

    def get_tokenizer(self) -> "NamedTokenizer":
        """The tokenizer with the methods that `transformers` has: `encode`, `decode`, `apply_chat_template`."""
        from octavo.vllm.tokenizer import NamedTokenizer

        return NamedTokenizer(self.tokenizer)

    @cached_property
    def llm_engine(self) -> "LLMEngine":
        """The engine for callers who step it themselves."""
        from octavo.vllm.llm_engine import LLMEngine

        return LLMEngine(self)

    def get_metrics(self) -> "list[Metric]":
        """Counters, gauges and histograms of this model's requests, as a server's /metrics has them."""
        from octavo.vllm.metrics import read_metrics

        return read_metrics(self._metrics.registry)

    def reset_prefix_cache(self) -> bool:
        """Forget what past prompts have left in the prefix cache, but for pinned prefixes, so that none is faster for
        having been seen. False, and nothing is forgotten, where another thread's requests are not over."""
        return self.shared.reset_prefix_cache()

    def ledger(self) -> Ledger:
        """The account of the KV memory at this moment."""
        return self.shared.ledger()

    def close(self) -> None:
        """Give the weights and the KV cache back to the system, and end the processes of chat templates. In a forked
        process that is the other's to do."""
        self.shared.close()

    if not TYPE_CHECKING:  # a type checker is to find what is not there

        def __getattr__(self, name: str) -> Any:
            if name in METHODS:
                raise AttributeError(f"{type(self).__name__}.{name} is vLLM's and not here: {METHODS[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rendered(self, conversation: Conversation) -> Prompt:
        prompt = self.tokenizer.render(conversation)
        return {"prompt": prompt.plain, "prompt_token_ids": self.tokenizer.encode_rendered(prompt)}

    def _open(
        self,
        prompts: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None = None,
    ) -> OpenRequests:
        """Tokenize and queue all prompts, or none where one is refused."""
        self.shared.check_process()
        params = sampling_params if sampling_params is not None else self.get_default_sampling_params()
        given = [params] if isinstance(params, SamplingParams) else list(params)
        if not all(isinstance(own, SamplingParams) for own in given):
            raise RequestError("sampling_params must be a SamplingParams, or a list with one for each prompt")
        # Copies: what the caller's own are set to later is not this call's, and what they were set to is checked here.
        copies = [own.clone() for own in given]
        each = copies * len(prompts) if isinstance(params, SamplingParams) else copies
        if len(each) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts and {len(each)} sampling_params: give one for all or one for each"
            )
        priorities = list(priority or [0] * len(prompts))
        if len(priorities) != len(prompts):
            raise RequestError(f"{len(prompts)} prompts and {len(priorities)} entries of priority: give one for each")
        opened = OpenRequests()
        try:
            for number, (prompt, own, rank) in enumerate(zip(prompts, each, priorities, strict=True)):
                try:
                    self.shared.queue(opened, prompt, own, rank)
                except RequestError as error:
                    raise RequestError(f"prompt {number}: {error}") from error
        except BaseException:
            self.shared.abort(opened)
            raise
        return opened

    def _run(self, opened: OpenRequests, use_tqdm: bool) -> list[RequestOutput]:
        num_tokens, start_s = 0, time.monotonic()
        try:
            total = len(opened.assemblers)
            with tqdm(total=total, desc="Requests", unit="request", disable=not use_tqdm, dynamic_ncols=True) as bar:
                for assembler in self.shared.steps(opened):
                    num_tokens += sum(len(delta.token_ids) for delta in assembler.take_delta())
                    if assembler.finished:
                        rate = num_tokens / (time.monotonic() - start_s)
                        bar.set_postfix_str(f"{rate:.0f} output tokens/s", refresh=False)
                        bar.update()
        finally:
            self.shared.abort(opened)
        return [assembler.output for assembler in opened.assemblers.values()]
