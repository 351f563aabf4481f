"""What goes into the scheduler and comes out of it: requests and updates in token ids only, as structs that can cross a
process boundary."""

import hashlib

import msgspec

from octavo.execution.plan import Task
from octavo.outputs import DraftUse, FinishReason, MemoryUse, TokenLogprobs
from octavo.pooling import PoolingParams
from octavo.sampling_params import SamplingParams
from octavo.structured_outputs import Grammar, ReasoningSection


class EngineRequest(msgspec.Struct, frozen=True, array_like=True):
    """A prompt with its sampling parameters. `arrival_s` is in seconds of `time.monotonic()`; `seed` is used where
    `params.seed` is None."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    arrival_s: float
    seed: int = 0
    tenant: str = ""
    """Whose request it is: what one tenant's requests leave in memory may not help another's."""
    cache_salt: str | None = None
    """Requests of one tenant share blocks only where this is the same, too."""
    output_len_hint: int | None = None
    """Output tokens that are expected, where that is known: contiguous-pow2 and -oracle reserve for so many. It bounds
    nothing; without it they take `max_tokens`."""
    task: Task = "generate"
    adapter: str | None = None
    """The name of an adapter that the executor has loaded; None is the model alone."""
    grammar: Grammar | None = None
    """What each sequence's output conforms to."""
    start_by_s: float | None = None
    """When it is dropped if it has not begun to run, in seconds of `time.monotonic()`."""
    bad_words: list[list[int]] = []
    """Token ids that no sequence generates one after another: those of `params.bad_words` and
    `params.bad_words_ids`."""
    pooling: PoolingParams | None = None
    """Of tasks that pool: what they ask for. Their `params` are `pooling.NOTHING_SAMPLED`."""
    reasoning: ReasoningSection | None = None
    """What each sequence's output may begin with, before its grammar does."""
    priority: int = 0
    """Under the policy `priority`: the lowest goes first."""
    prediction: list[int] = []
    """Tokens that the output may resemble: it comes faster where it does, and is the same."""


def request_seed(seed: int, number: int) -> int:
    """The seed of an engine's request `number` where it brings none: another for each, the same in every run."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest())


class SequenceUpdate(msgspec.Struct, array_like=True):
    """New tokens of one sequence of a request, and its end if this is it."""

    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The one of `params.stop_token_ids` that ended the sequence; None for the model's own end-of-sequence."""
    logprobs: list[TokenLogprobs] | None = None
    cumulative_logprob: float | None = None
    """Of a beam search's hypothesis, which comes whole: its `index` is its place, 0 the best."""
    pooled: bytes | None = None
    """Of a request that pools, at its end: its numbers, as `pooling.numbers` reads them."""


class RequestUpdate(msgspec.Struct, array_like=True):
    """What one step gave a request."""

    request_id: str
    sequences: list[SequenceUpdate]
    prompt_logprobs: list[TokenLogprobs] | None = None
    """All of them, once: entry i is about prompt token i + 1."""
    first_scheduled_s: float | None = None
    memory: MemoryUse = MemoryUse()
    drafts: DraftUse = DraftUse()
    error: str | None = None
    """What the request failed of: all its sequences are over, and nothing follows."""
