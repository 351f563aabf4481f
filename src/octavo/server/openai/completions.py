"""POST /v1/completions: texts, or token ids, and what follows them."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from pydantic import Field
from starlette.responses import Response

from octavo.output_assembler import Delta
from octavo.outputs import CompletionOutput, FinishReason, Logprob, RequestOutput
from octavo.sampling_params import ALL_TOKENS, SamplingParams
from octavo.server.errors import ApiError
from octavo.server.openai import run
from octavo.server.openai.aliases import TEXT_ALIASES, Alias
from octavo.server.openai.answers import (
    StopReason,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    Usage,
    json_response,
)
from octavo.server.openai.body import MAX_WHOLE, MOST_LIKELY, FirstError, SamplingBody, Text, TokenIds, Whole
from octavo.server.openai.contract import gives, takes
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.foreign_fields import REFUSED, Neutral, unsupported
from octavo.server.openai.logprobs import TextLogprobsWriter, TokenNames, joined, prompt_logprobs
from octavo.server.request_context import RequestContext, context_of
from octavo.server.serving import Serving, serving_of
from octavo.tokenization.tokenizer import Tokenizer

Prompts = Text | TokenIds | Annotated[list[Text], FirstError()] | Annotated[list[TokenIds], FirstError()]
DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

router = APIRouter()


class CompletionBody(SamplingBody):
    """Prompts and how to go on from them."""

    prompt: Prompts | None = Field(
        None,
        description="a text, token ids, or a list of either; the beginning of a document where it is left out",
    )
    max_tokens: Whole | None = Field(
        None,
        ge=0,
        description=f"tokens to generate, as far as they fit, {DEFAULT_MAX_TOKENS} by default; 0 only with echo",
    )
    logprobs: Whole | None = Field(
        None,
        ge=ALL_TOKENS,
        le=MAX_WHOLE,
        description=f"tell each token's log-probability and those of this many {MOST_LIKELY}",
    )
    suffix: str | None = Field(None, description="not supported")

    aliases: ClassVar[Mapping[str, Alias]] = TEXT_ALIASES
    foreign: ClassVar[dict[str, Neutral]] = REFUSED | {
        "add_generation_prompt": (True,),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (),
        "documents": ([],),
        "messages": (),
        "top_logprobs": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "reasoning_effort": ("none",),
        "enable_thinking": (),
        "think": (),
        "thinking": ({"type": "disabled"},),
        "reasoning": ({},),
        "thinking_token_budget": (),
        "thinking_budget": (),
        "reasoning_budget": (-1,),
    }

    @property
    def prompts(self) -> list[str | list[int] | None]:
        """The prompts one by one: a flat list of token ids is one, and None the beginning of a document."""
        if self.prompt is None or isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    def check_supported(self) -> None:
        super().check_supported()
        self.check_named_tokens(self.logprobs is not None)
        if self.suffix:
            raise unsupported("suffix")
        if self.max_tokens == 0 and not self.echo:
            raise ApiError(400, "max_tokens is 0 and echo is not set: nothing would be answered", param="max_tokens")
        if not self.prompts:
            raise ApiError(400, "prompt is an empty list", param="prompt")

    @property
    def is_scoring_only(self) -> bool:
        """The prompt is wanted back and nothing after it."""
        return self.max_tokens == 0

    def params(self) -> SamplingParams:
        """As the engine takes them: it always generates a token, and scores the prompt where that is asked for.

        Raises:
            RequestError: a value is out of its range.
        """
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else max(self.max_tokens, 1)
        scores: dict[str, Any] = {}
        if self.echo and self.logprobs is not None:
            asked = (self.logprobs, self.prompt_logprobs or 0)
            scores["prompt_logprobs"] = ALL_TOKENS if ALL_TOKENS in asked else max(asked)
        return self.sampling_params(max_tokens=max_tokens, logprobs=self.logprobs, **scores)


@router.post(
    "/v1/completions",
    summary="Go on from a text",
    openapi_extra=takes(CompletionBody),
    responses=gives(TextCompletion, TextCompletion),
)
async def create_completion(request: Request) -> Response:
    """One continuation or several of each prompt, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    body, params = await run.read(request, CompletionBody)
    asked = body.structured()
    if asked is not None:
        await run.check_structure(serving, asked.params, asked.field)
    tokenized = [await _tokenized(serving, prompt, body, params) for prompt in body.prompts]
    await run.start(serving, context, tokenized, params, body.cache_salt, body.priority or 0)
    answer = _TextAnswer(serving, context, body)
    if body.stream:
        return await event_stream(answer.chunks())
    return json_response(answer.whole(await run.finish(serving, context)))


async def _tokenized(
    serving: Serving, prompt: str | list[int] | None, body: CompletionBody, params: SamplingParams
) -> run.Prompt:
    front = serving.front
    if prompt is None:
        prompt = front.tokenizer.document_start
        if not prompt:
            raise ApiError(400, "prompt is missing, and this model has no token that begins a document", param="prompt")
    if isinstance(prompt, str):
        max_bytes = None if body.truncate_prompt_tokens is None else serving.max_tokenize_bytes
        token_ids = await front.tokenize(prompt, body.add_special_tokens is not False, max_bytes)
        return run.Prompt(prompt, token_ids).cut(run.Cut.of(body), params, serving)
    return run.Prompt(None, prompt).cut(run.Cut.of(body), params, serving)


class _TextAnswer:
    """Writes one request's answer. Choices are numbered through: those of the first prompt come first."""

    def __init__(self, serving: Serving, context: RequestContext, body: CompletionBody) -> None:
        self._serving = serving
        self._context = context
        self._body = body
        self._id = f"cmpl-{context.request_id}"
        self._created = int(time.time())
        self._writers = [
            [
                _ChoiceWriter(serving.front.tokenizer, body, prompt_index * body.num_answers + index, generation.output)
                for index in range(body.num_answers)
            ]
            for prompt_index, generation in enumerate(context.generations)
        ]

    def whole(self, outputs: list[RequestOutput]) -> TextCompletion:
        choices = [
            writer.choice(sequence)
            for writers, output in zip(self._writers, outputs, strict=True)
            for writer, sequence in zip(writers, output.outputs, strict=True)
        ]
        return self._completion(choices, self._usage())

    async def chunks(self) -> AsyncIterator[list[TextCompletion]]:
        async for gained in run.deltas(self._serving, self._context):
            writers = self._writers[gained.prompt_index]
            choices = [writers[delta.index].chunk_choice(delta) for delta in gained.deltas]
            yield [self._completion([choice], self._sent_usage()) for choice in choices if choice is not None]
        if self._body.wants_usage_chunk:
            yield [self._completion([], self._usage())]

    def _completion(self, choices: list[TextChoice], usage: Usage | UnsetType | None) -> TextCompletion:
        fingerprint = self._serving.system_fingerprint
        return TextCompletion(self._id, self._created, self._serving.model_name, choices, fingerprint, usage)

    def _sent_usage(self) -> Usage | UnsetType | None:
        """What a chunk has for usage that is not the last one."""
        if self._body.wants_usage_always:
            return self._usage()
        return None if self._body.wants_usage_chunk else UNSET

    def _usage(self) -> Usage:
        usage = Usage.of([generation.output for generation in self._context.generations])
        if self._body.is_scoring_only:
            usage.completion_tokens, usage.total_tokens = 0, usage.prompt_tokens
        return usage


class _ChoiceWriter:
    """Writes one choice, whole or in pieces: with echo, the prompt goes before the first.

    Args:
        output: what becomes of the choice's prompt; it has the prompt's log-probabilities with the first delta.
    """

    def __init__(self, tokenizer: Tokenizer, body: CompletionBody, index: int, output: RequestOutput) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._index = index
        self._output = output
        self._logprobs_writer: TextLogprobsWriter | None = None
        if body.logprobs is not None:
            names = TokenNames(tokenizer, bool(body.return_tokens_as_token_ids))
            self._logprobs_writer = TextLogprobsWriter(names, body.skip_special_tokens is not False)
        self._owes_prompt = True

    def choice(self, sequence: CompletionOutput) -> TextChoice:
        """All of it."""
        choice = self._piece(sequence.text, sequence.token_ids, sequence.logprobs)
        self._end(choice, sequence.finish_reason, sequence.stop_reason)
        scored = self._output.prompt_logprobs
        if self._body.prompt_logprobs is not None and scored is not None:
            choice.prompt_logprobs = prompt_logprobs(scored)
        return choice

    def chunk_choice(self, delta: Delta) -> TextChoice | None:
        """The next piece, None where there is nothing to tell yet."""
        choice = self._piece(delta.text, delta.token_ids, delta.logprobs)
        if delta.finish_reason is not None:
            self._end(choice, delta.finish_reason, delta.stop_reason)
        return choice if choice.text or choice.logprobs or choice.token_ids or choice.finish_reason else None

    def _end(self, choice: TextChoice, finish_reason: FinishReason | None, stop_reason: StopReason) -> None:
        if self._body.is_scoring_only:
            finish_reason, stop_reason = "length", None
        choice.finish_reason, choice.stop_reason = finish_reason, stop_reason

    def _piece(self, text: str, token_ids: list[int], positions: list[dict[int, Logprob]] | None) -> TextChoice:
        if self._body.is_scoring_only:
            text, token_ids, positions = "", [], None if positions is None else []
        is_first, self._owes_prompt = self._owes_prompt, False
        begins_with_prompt = is_first and bool(self._body.echo)
        choice = TextChoice(self._index, text, self._logprobs(token_ids, positions, begins_with_prompt))
        if begins_with_prompt:
            choice.text = self._prompt_text() + text
        if self._body.return_token_ids:
            choice.token_ids = token_ids
            if is_first:
                choice.prompt_token_ids = self._output.prompt_token_ids
        return choice

    def _logprobs(
        self, token_ids: list[int], positions: list[dict[int, Logprob]] | None, after_prompt: bool
    ) -> TextLogprobs | None:
        if self._logprobs_writer is None or positions is None:
            return None
        if not after_prompt:
            return self._logprobs_writer.write(token_ids, positions) if token_ids else None
        prompt = self._logprobs_writer.write_prompt(
            self._prompt_text(), self._output.prompt_token_ids, self._output.prompt_logprobs or []
        )
        return joined(prompt, self._logprobs_writer.write(token_ids, positions))

    def _prompt_text(self) -> str:
        """The prompt as it was given; special tokens among token ids are spelled."""
        if self._output.prompt is not None:
            return self._output.prompt
        return self._tokenizer.decode(self._output.prompt_token_ids, skip_special_tokens=False)
