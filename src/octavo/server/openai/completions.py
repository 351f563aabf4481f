"""POST /v1/completions: texts, or token ids, and what follows them."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from pydantic import Field
from starlette.responses import Response

from octavo.output_assembler import Delta
from octavo.outputs import CompletionOutput, Logprob, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.server.errors import ApiError
from octavo.server.front import Front
from octavo.server.openai import run
from octavo.server.openai.answers import TextChoice, TextCompletion, TextLogprobs, Usage, json_response
from octavo.server.openai.body import MAX_WHOLE, SamplingBody, Text, unsupported
from octavo.server.openai.event_stream import event_stream
from octavo.server.openai.logprobs import TextLogprobsWriter, joined, prompt_logprobs
from octavo.server.request_context import RequestContext, context_of
from octavo.server.request_limits import check_caps
from octavo.server.serving import Serving, serving_of

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""

router = APIRouter()


class CompletionBody(SamplingBody):
    """Prompts and how to go on from them."""

    prompt: Text | list[int] | list[Text] | list[list[int]] = Field(
        description="a text, token ids, or a list of either"
    )
    max_tokens: int | None = Field(
        None, ge=0, description=f"tokens to generate, {DEFAULT_MAX_TOKENS} by default; 0 only with echo"
    )
    echo: bool | None = Field(None, description="begin the answer with the prompt; with logprobs, its tokens' as well")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_WHOLE, description="tell each token's log-probability and those of this many most likely"
    )
    suffix: str | None = Field(None, description="not supported")

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one: a flat list of token ids is one."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]

    def check_supported(self) -> None:
        super().check_supported()
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
            scores["prompt_logprobs"] = max(self.logprobs, self.prompt_logprobs or 0)
        return self.sampling_params(max_tokens=max_tokens, logprobs=self.logprobs, **scores)


@router.post("/v1/completions", summary="Go on from a text")
async def create_completion(body: CompletionBody, request: Request) -> Response:
    """One continuation or several of each prompt, whole or as a stream of events."""
    serving, context = serving_of(request), context_of(request)
    serving.check_model(body.model)
    body.check_supported()
    prompts = body.prompts
    check_caps(
        serving.config,
        n=body.num_answers,
        best_of=body.best_of,
        stop=body.stop,
        logit_bias=body.logit_bias,
        num_prompts=len(prompts),
    )
    params = serving.sampling_defaults.applied(body.params(), body.given_params)
    tokenized = [await _tokenized(serving.front, prompt) for prompt in prompts]
    await run.start(serving, context, tokenized, params, body.cache_salt)
    answer = _TextAnswer(serving, context, body)
    if body.stream:
        return event_stream(answer.chunks())
    return json_response(answer.whole(await run.finish(serving, context)))


async def _tokenized(front: Front, prompt: str | list[int]) -> run.Prompt:
    if isinstance(prompt, str):
        return run.Prompt(prompt, await front.tokenize(prompt))
    return run.Prompt(None, prompt)


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
                _ChoiceWriter(serving.front, body, prompt_index * body.num_answers + index, generation.output)
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
        sent_usage = None if self._body.wants_usage_chunk else UNSET
        async for gained in run.deltas(self._serving, self._context):
            writers = self._writers[gained.prompt_index]
            choices = [writers[delta.index].chunk_choice(delta) for delta in gained.deltas]
            yield [self._completion([choice], sent_usage) for choice in choices if choice is not None]
        if self._body.wants_usage_chunk:
            yield [self._completion([], self._usage())]

    def _completion(self, choices: list[TextChoice], usage: Usage | UnsetType | None) -> TextCompletion:
        return TextCompletion(self._id, self._created, self._serving.model_name, choices, usage)

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

    def __init__(self, front: Front, body: CompletionBody, index: int, output: RequestOutput) -> None:
        self._tokenizer = front.tokenizer
        self._body = body
        self._index = index
        self._output = output
        self._logprobs_writer = None if body.logprobs is None else TextLogprobsWriter(front.tokenizer)
        self._owes_prompt = bool(body.echo)

    def choice(self, sequence: CompletionOutput) -> TextChoice:
        """All of it."""
        choice = self._piece(sequence.text, sequence.token_ids, sequence.logprobs)
        choice.finish_reason = "length" if self._body.is_scoring_only else sequence.finish_reason
        scored = self._output.prompt_logprobs
        if self._body.prompt_logprobs is not None and scored is not None:
            choice.prompt_logprobs = prompt_logprobs(scored)
        return choice

    def chunk_choice(self, delta: Delta) -> TextChoice | None:
        """The next piece, None where there is nothing to tell yet."""
        choice = self._piece(delta.text, delta.token_ids, delta.logprobs)
        if delta.finish_reason is not None:
            choice.finish_reason = "length" if self._body.is_scoring_only else delta.finish_reason
        return choice if choice.text or choice.logprobs or choice.finish_reason else None

    def _piece(self, text: str, token_ids: list[int], positions: list[dict[int, Logprob]] | None) -> TextChoice:
        if self._body.is_scoring_only:
            text, token_ids, positions = "", [], None if positions is None else []
        before, self._owes_prompt = self._owes_prompt, False
        own = self._logprobs(token_ids, positions, before)
        return TextChoice(self._index, self._prompt_text() + text if before else text, own)

    def _logprobs(
        self, token_ids: list[int], positions: list[dict[int, Logprob]] | None, after_prompt: bool
    ) -> TextLogprobs | None:
        if self._logprobs_writer is None or positions is None:
            return None
        if not after_prompt:
            return self._logprobs_writer.write(token_ids, positions) if token_ids else None
        prompt = self._logprobs_writer.write(self._output.prompt_token_ids, self._output.prompt_logprobs or [])
        return joined(prompt, self._logprobs_writer.write(token_ids, positions))

    def _prompt_text(self) -> str:
        if self._output.prompt is not None:
            return self._output.prompt
        return self._tokenizer.decode(self._output.prompt_token_ids)
