"""What a caller gets back. A leaf: plain data in the field's usual shape (`out.outputs[0].text`)."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]
"""`error` is a request that failed in the engine, and it alone; the log says why."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position: of the token there, its rank, and the most likely tokens in order, or in their
    place those that were named (`SamplingParams.logprob_token_ids`)."""

    token_id: int
    logprob: float
    rank: int
    top_token_ids: list[int]
    top_logprobs: list[float]
    top_ranks: list[int] | None = None
    """Of named tokens; None is 1, 2 and so on."""


class BeamCandidates(msgspec.Struct, frozen=True, array_like=True):
    """The tokens that may come next in a beam, most likely first, equals by their id; impossible ones are left out."""

    token_ids: list[int]
    logprobs: list[float]
    """Under the model's own distribution; bias, penalties and masks are added to these."""
    told: list[TokenLogprobs] = []
    """What to tell of each, where the request asked for logprobs; else empty."""


@dataclass(slots=True)
class Logprob:
    """One candidate for one position: its natural log-probability, its rank (1 is the most likely) and its text."""

    logprob: float
    rank: int
    decoded_token: str | None = None


class MemoryUse(msgspec.Struct, frozen=True, array_like=True):
    """What became of a request in the KV memory."""

    num_cached_tokens: int = 0
    """Tokens of the prompt that the prefix cache had when the request was first admitted."""
    num_preemptions: int = 0
    """Times that it gave up its blocks for earlier arrivals."""
    num_swaps: int = 0
    """Those of them in which its blocks went to the swap space."""
    num_recomputed_tokens: int = 0
    """Tokens whose states were computed again after the others."""
    moved_bytes: int = 0
    """Moved to the swap space and back."""
    copied_bytes: int = 0
    """Copied because its sequences wrote into shared blocks."""


class DraftUse(msgspec.Struct, frozen=True, array_like=True):
    """What became of guesses at tokens, those that a grammar forces included."""

    num_drafted: int = 0
    """Guesses that were computed."""
    num_accepted: int = 0
    """Those of them that were right, and are part of the output."""

    def __add__(self, other: "DraftUse") -> "DraftUse":
        return DraftUse(self.num_drafted + other.num_drafted, self.num_accepted + other.num_accepted)


@dataclass(slots=True)
class RequestMetrics:
    """A request's times, in seconds of `time.monotonic()`, and what became of it in memory and of its drafts."""

    arrival_s: float
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    memory: MemoryUse = field(default_factory=MemoryUse)
    drafts: DraftUse = field(default_factory=DraftUse)

    @property
    def time_to_first_token_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def end_to_end_s(self) -> float | None:
        return None if self.finished_s is None else self.finished_s - self.arrival_s


@dataclass(slots=True)
class CompletionOutput:
    """One sequence of a request: what has been generated so far, or all of it once `finish_reason` is set.

    `stop_reason` is the stop text or stop token id that ended it, None for end-of-sequence and length.
    `logprobs` has for each token a dict from token id to `Logprob`: the token itself and the most likely ones.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    pooled: bytes | None = field(default=None, repr=False)
    """Of a request that pools its prompt: its numbers, as `pooling.numbers` reads them. It has no text."""
    cumulative_logprob: float | None = None
    """The sum of the generated tokens' log-probabilities, where logprobs were asked for. Of a beam search's hypothesis
    always, as the search counts it: biases and penalties included."""

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class BeamSearchSequence:
    """A hypothesis of a beam search with its prompt, as vLLM tells it."""

    tokens: list[int]
    text: str
    cum_logprob: float
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None


@dataclass(slots=True)
class RequestOutput:
    """A request and its sequences. `prompt` is None where token ids alone were given; the first `prompt_logprobs` entry
    is None."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    metrics: RequestMetrics
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    sequences: list[BeamSearchSequence] | None = None
    """Of a beam search: `outputs`, best first, each behind the prompt."""

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt that the prefix cache had."""
        return self.metrics.memory.num_cached_tokens

    @property
    def finished(self) -> bool:
        return all(output.finished for output in self.outputs)
