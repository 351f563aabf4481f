"""The offline calls that pool prompts: `LLM.embed`, `encode`, `classify` and `score`."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from octavo.errors import RequestError
from octavo.execution.executor import Capabilities
from octavo.inputs import Prompt, as_list
from octavo.offline_run import open_all, run_all
from octavo.outputs import RequestOutput
from octavo.pooling import PoolingParams, PoolingTask, likeness
from octavo.pooling_outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
    pooled_numbers,
)
from octavo.shared_engine import OpenRequests, SharedEngine
from octavo.tokenization.score_prompts import YesNo, pairs_of, scoring_method
from octavo.tokenization.tokenizer import Tokenizer

Params = PoolingParams | Sequence[PoolingParams] | None
"""One for all prompts, one for each, or the model's own ways."""


class PooledCalls:
    """Pools prompts over a shared engine.

    Args:
        known: what the engine can do.
        score_template: as `YesNo` takes it.
    """

    def __init__(
        self, shared: SharedEngine, tokenizer: Tokenizer, known: Capabilities, score_template: str | None
    ) -> None:
        self._shared = shared
        self._tokenizer = tokenizer
        self._known = known
        self._yes_no = YesNo(tokenizer, score_template)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], params: Params, num_kept: int | None, use_tqdm: bool
    ) -> list[EmbeddingRequestOutput]:
        """A vector of each prompt.

        Args:
            num_kept: tokens of each prompt's end that are kept, as `PoolingParams.truncate_prompt_tokens`.

        Raises:
            RequestError: as `LLM.generate`, or the model does not embed.
        """
        outputs = self._run(as_list(prompts), "embed", params, num_kept, use_tqdm)
        return [EmbeddingRequestOutput.of(each, EmbeddingOutput(pooled_numbers(each))) for each in outputs]

    def classify(
        self, prompts: Prompt | Sequence[Prompt], params: Params, num_kept: int | None, use_tqdm: bool
    ) -> list[ClassificationRequestOutput]:
        """How likely each class is, of each prompt. Raises as `embed`."""
        outputs = self._run(as_list(prompts), "classify", params, num_kept, use_tqdm)
        return [ClassificationRequestOutput.of(each, ClassificationOutput(pooled_numbers(each))) for each in outputs]

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: Params,
        task: PoolingTask | None,
        num_kept: int | None,
        use_tqdm: bool,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """The numbers of a task as tensors; by default that of the params, and then the one that the model has. Raises
        as `embed`."""
        asked = params.task if isinstance(params, PoolingParams) else None
        own_task = task or asked or self._shared.pooling_task
        outputs = self._run(as_list(prompts), own_task, params, num_kept, use_tqdm)
        return [PoolingRequestOutput.of(each, PoolingOutput.of(each)) for each in outputs]

    def score(
        self, first: object, second: object, params: PoolingParams | None, num_kept: int | None, use_tqdm: bool
    ) -> list[ScoringRequestOutput]:
        """How well the texts of each pair go together.

        Args:
            first: a text, or as many as there are in `second`.

        Raises:
            RequestError: as `embed`, the texts make no pairs, or the model cannot score.
        """
        pairs = pairs_of(_texts(first), _texts(second))
        method = scoring_method(self._known)
        if method == "likeness":
            return self._score_by_likeness(pairs, params, num_kept, use_tqdm)
        if method == "classes":
            prompts = [{"prompt_token_ids": self._pair(*pair, num_kept)} for pair in pairs]
            outputs = self._run(prompts, "classify", params, None, use_tqdm)
        else:
            if num_kept is not None:
                raise RequestError("truncate_prompt_tokens would cut what the model is asked: shorten the texts")
            asked = msgspec.structs.replace(params or PoolingParams(), label_token_ids=self._yes_no.label_token_ids)
            prompts = [{"prompt_token_ids": self._question(*pair)} for pair in pairs]
            outputs = self._run(prompts, "score", asked, None, use_tqdm)
        return [ScoringRequestOutput.of(each, ScoringOutput(pooled_numbers(each)[-1])) for each in outputs]

    def _score_by_likeness(
        self, pairs: list[tuple[str, str]], params: PoolingParams | None, num_kept: int | None, use_tqdm: bool
    ) -> list[ScoringRequestOutput]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        found = dict(zip(texts, self._run(texts, "embed", params, num_kept, use_tqdm), strict=True))
        told = []
        for pair in pairs:
            one, other = (found[text] for text in pair)
            score = likeness(one.outputs[0].pooled or b"", other.outputs[0].pooled or b"")
            token_ids = one.prompt_token_ids + other.prompt_token_ids
            told.append(ScoringRequestOutput(one.request_id, ScoringOutput(score), token_ids))
        return told

    def _pair(self, first: str, second: str, num_kept: int | None) -> list[int]:
        most = self._shared.num_kept(num_kept)
        return self._tokenizer.encode_within(first, sys.maxsize if most is None else most, second)

    def _question(self, query: str, document: str) -> list[int]:
        return self._tokenizer.encode_rendered(self._tokenizer.render(self._yes_no.question(query, document)))

    def _run(
        self, prompts: Sequence[Prompt], task: PoolingTask, params: Params, num_kept: int | None, use_tqdm: bool
    ) -> list[RequestOutput]:
        self._shared.check_process()
        each: Sequence[Any] = params if isinstance(params, list | tuple) else [params or PoolingParams()] * len(prompts)
        if not all(isinstance(own, PoolingParams) for own in each):
            raise RequestError("pooling_params must be a PoolingParams, or a list with one for each prompt")
        if len(each) != len(prompts):
            raise RequestError(
                f"{len(prompts)} prompts and {len(each)} pooling_params: give one for all or one for each"
            )
        queues = [
            partial(self._queue, prompt=prompt, task=task, own=own, num_kept=num_kept)
            for prompt, own in zip(prompts, each, strict=True)
        ]
        return run_all(self._shared, open_all(self._shared, queues), use_tqdm)

    def _queue(
        self, opened: OpenRequests, prompt: Prompt, task: PoolingTask, own: PoolingParams, num_kept: int | None
    ) -> None:
        if own.task not in (None, task):
            raise RequestError(f"pooling_params ask for task {own.task!r}, and the call is for {task!r}")
        own = own.clone()
        if num_kept is not None:
            own = msgspec.structs.replace(own, truncate_prompt_tokens=num_kept)
        self._shared.queue_pooled(opened, prompt, task, own)


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise RequestError("score takes texts, or lists of texts")
    return list(texts)
