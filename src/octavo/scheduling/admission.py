"""What the engine can serve at all: a request is refused here, with the numbers, before anything is allocated for
it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from octavo.errors import ContextLengthError, RequestError
from octavo.execution.executor import Capabilities
from octavo.execution.plan import Task
from octavo.memory import Demand
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import ReasoningSection

MAX_LOGPROB_TOKEN_IDS = 128
"""vLLM's; more where --max-logprobs is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The sizes that bound a request and a step."""

    num_blocks: int
    block_size: int
    max_model_len: int
    """Prompt and output tokens of one sequence."""
    max_num_seqs: int
    """Sequences that run in one step."""
    max_num_batched_tokens: int
    """The token budget of one step."""
    vocab_size: int
    max_logprobs: int = 20
    demand: Demand
    capabilities: Capabilities = field(default_factory=Capabilities)

    def num_at_once(self, params: SamplingParams) -> int:
        """Sequences of a request that run at once: a search's beams all, samples as many as a step takes. The further
        ones begin when those are over."""
        if params.beams is not None:
            return params.beams.width
        return min(params.n, self.max_num_seqs, self.max_num_batched_tokens)


ENDPOINTS = {"generate": "chat and text completions", "embed": "/v1/embeddings", "classify": "/classify and /score"}
"""Where a server has the tasks."""


def check_task(task: Task, capabilities: Capabilities) -> None:
    """Check that the executor knows a task.

    Raises:
        RequestError: it does not; the message names those that it knows.
    """
    if task not in capabilities.tasks:
        known = [f"{name!r} ({ENDPOINTS[name]})" for name in sorted(capabilities.tasks) if name in ENDPOINTS]
        raise RequestError(f"this model has no task {task!r}; it has {', '.join(known) or 'none'}")


def check_wants(message: EngineRequest, capabilities: Capabilities) -> None:
    """Check that the executor knows the task, the adapter and the kind of grammar that a request names.

    Raises:
        RequestError: it does not; the message names those that it knows.
    """
    check_task(message.task, capabilities)
    kind = None if message.grammar is None else message.grammar.kind
    named: list[tuple[str, str | None, Collection[str]]] = [
        ("adapter", message.adapter, capabilities.adapters),
        ("kind of grammar", kind, capabilities.grammars),
    ]
    for what, name, known in named:
        if name is not None and name not in known:
            told = ", ".join(sorted(known)) or "none"
            raise RequestError(f"{what} {name!r} is unknown to this engine; it knows {told}")
    if message.reasoning is not None and not capabilities.reasoning:
        raise RequestError("this engine follows no reasoning sections: leave the section out")


def check_pooled(message: EngineRequest, limits: Limits) -> None:
    """Check a request that pools against the limits.

    Raises:
        ContextLengthError: the prompt is longer than the model's context.
        RequestError: the request is malformed or could never run here; the message names the limit and what changes it.
    """
    prompt, asked, pooling = message.prompt_token_ids, message.pooling, limits.capabilities.pooling
    num_prompt, width = len(prompt), limits.capabilities.embedding_width
    check_prompt_length(num_prompt, limits, num_output=0)
    if not pooling.is_causal and num_prompt > limits.max_num_batched_tokens:
        raise ContextLengthError(
            f"this model computes a prompt in one step, and the prompt's {num_prompt} tokens are over the token budget "
            f"of a step ({limits.max_num_batched_tokens}): shorten it, or raise --max-num-batched-tokens"
        )
    needed = limits.demand.of_request(num_prompt, num_prompt, 1)
    if needed > limits.num_blocks:
        raise ContextLengthError(
            f"the prompt is too long for the pool: {num_prompt} tokens need {needed} KV blocks of {limits.block_size} "
            f"tokens, and it has {limits.num_blocks}; shorten it, or raise --kv-cache-memory"
        )
    if asked is None:
        raise RequestError(f"task {message.task!r} needs its pooling parameters")
    for name in ("dimensions", "normalize"):
        if message.task != "embed" and getattr(asked, name) is not None:
            raise RequestError(f"{name} is for embeddings: leave it out")
    if asked.dimensions is not None and asked.dimensions > width:
        raise RequestError(f"dimensions={asked.dimensions} is over the {width} numbers of this model's embeddings")
    if message.task == "score" and asked.label_token_ids is None:
        raise RequestError("task 'score' needs label_token_ids: the tokens whose logits are compared")
    _check_all_ids([("the prompt", prompt), ("label_token_ids", asked.label_token_ids)], limits.vocab_size)


def check_prompt_length(num_prompt: int, limits: Limits, measure: str = "", num_output: int = 1) -> None:
    """Check that the model's context has room for a prompt and the least that follows it.

    Args:
        measure: what the error says of `num_prompt`: "at least " where it is a lower bound.
        num_output: tokens that follow at least: one, or none of a prompt that is pooled.

    Raises:
        ContextLengthError: it has not.
    """
    if num_prompt + num_output > limits.max_model_len:
        generated = ", and one is generated at least" if num_output else ""
        raise ContextLengthError(
            f"This model's maximum context length is {limits.max_model_len} tokens. The prompt is too long: it has "
            f"{measure}{num_prompt} tokens{generated}; shorten it or raise --max-model-len"
        )


def check_section(section: ReasoningSection, limits: Limits) -> None:
    """Check that a reasoning section's marks are the model's tokens.

    Raises:
        RequestError: they are not.
    """
    for name, ids in (("opening", section.opening), ("end", section.end)):
        _check_ids(f"the {name} of the reasoning section", ids, limits.vocab_size)


def check_prediction(token_ids: Sequence[int], limits: Limits) -> None:
    """Check that guesses at an output are the model's tokens.

    Raises:
        RequestError: they are not.
    """
    _check_ids("the prediction", token_ids, limits.vocab_size)


def resolve_max_tokens(prompt_token_ids: list[int], params: SamplingParams, limits: Limits) -> int:
    """Check a request against the limits and return the tokens that it may generate: the most that fit, and no more
    than `params.max_tokens`.

    Raises:
        ContextLengthError: not even one token fits behind the prompt.
        RequestError: the request is malformed or could never run here; the message names the limit and what changes it.
    """
    check_task("generate", limits.capabilities)
    check_prompt_length(len(prompt_token_ids), limits)
    _check_token_ids(prompt_token_ids, params, limits)
    num_prompt, n = len(prompt_token_ids), limits.num_at_once(params)
    field = "n" if params.beams is None else "beam_width"
    if n > limits.max_num_seqs:
        raise RequestError(
            f"{field}={n} beams run at once, and --max-num-seqs is {limits.max_num_seqs}: lower {field} or raise "
            f"--max-num-seqs"
        )
    if n > limits.max_num_batched_tokens:
        raise RequestError(
            f"{field}={n} is over the token budget of a step ({limits.max_num_batched_tokens}): lower {field} or raise "
            f"--max-num-batched-tokens"
        )
    most = limits.demand.longest(num_prompt, n, limits.num_blocks, limits.max_model_len)
    if most <= num_prompt:
        needed = limits.demand.of_request(num_prompt, num_prompt + 1, n)
        raise ContextLengthError(
            f"This model's maximum context length is {limits.max_model_len} tokens. The prompt is too long for the "
            f"pool: {num_prompt} tokens with {field}={n} at once can need {needed} KV blocks of {limits.block_size} "
            f"tokens, and it has {limits.num_blocks}; lower {field}, shorten the prompt, or raise --kv-cache-memory"
        )
    room = most - num_prompt
    max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
    if params.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens={params.min_tokens} is over the {max_tokens} tokens that fit behind this prompt"
        )
    return max_tokens


def _check_ids(name: str, ids: Collection[int], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise RequestError(f"{name} holds token id {wrong}, and this model's ids are 0 to {vocab_size - 1}")


def _check_all_ids(named: Sequence[tuple[str, Collection[int] | None]], vocab_size: int) -> None:
    """Check that ids are those of tokens. The first of these are a prompt's."""
    if not named[0][1]:
        raise RequestError("the prompt is empty: give at least one token")
    for name, ids in named:
        _check_ids(name, ids or (), vocab_size)


def _check_token_ids(prompt_token_ids: list[int], params: SamplingParams, limits: Limits) -> None:
    named: list[tuple[str, Collection[int] | None]] = [
        ("the prompt", prompt_token_ids),
        ("stop_token_ids", params.stop_token_ids),
        ("allowed_token_ids", params.allowed_token_ids),
        ("logprob_token_ids", params.logprob_token_ids),
        ("logit_bias", params.logit_bias),
        *(("bad_words_ids", word) for word in params.bad_words_ids or ()),
    ]
    _check_all_ids(named, limits.vocab_size)
    asked_counts = (
        ("logprobs", None if params.logprob_token_ids else params.logprobs),
        ("prompt_logprobs", params.prompt_logprobs),
    )
    for name, count in asked_counts:
        if count is None or limits.max_logprobs == -1:
            continue
        if count == -1 or count > limits.max_logprobs:
            asked = f"{name}=-1, the whole vocabulary," if count == -1 else f"{name}={count}"
            raise RequestError(f"{asked} is over the cap of {limits.max_logprobs}: lower it or raise --max-logprobs")
    num_named, most = len(params.logprob_token_ids or ()), max(limits.max_logprobs, MAX_LOGPROB_TOKEN_IDS)
    if num_named > most and limits.max_logprobs != -1:
        raise RequestError(f"logprob_token_ids has {num_named} ids, over the cap of {most}: raise --max-logprobs")
