"""What the engine can serve at all: a request is refused here, with the numbers, before anything is allocated for
it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from octavo.errors import RequestError
from octavo.execution.executor import Capabilities
from octavo.memory import Demand
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest


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


def check_wants(message: EngineRequest, capabilities: Capabilities) -> None:
    """Check that the executor knows the task, the adapter and the kind of grammar that a request names.

    Raises:
        RequestError: it does not; the message names those that it knows.
    """
    kind = None if message.grammar is None else message.grammar.kind
    named: list[tuple[str, str | None, Collection[str]]] = [
        ("task", message.task, capabilities.tasks),
        ("adapter", message.adapter, capabilities.adapters),
        ("kind of grammar", kind, capabilities.grammars),
    ]
    for what, name, known in named:
        if name is not None and name not in known:
            told = ", ".join(sorted(known)) or "none"
            raise RequestError(f"{what} {name!r} is unknown to this engine; it knows {told}")


def resolve_max_tokens(prompt_token_ids: list[int], params: SamplingParams, limits: Limits) -> int:
    """Check a request against the limits and return the tokens it may generate: `params.max_tokens`, or the most that
    fit.

    Raises:
        RequestError: the request is malformed or could never run here; the message names the limit and what changes it.
    """
    _check_token_ids(prompt_token_ids, params, limits)
    num_prompt, n = len(prompt_token_ids), params.num_sequences
    field = "n" if params.beams is None else "beam_width"
    if num_prompt >= limits.max_model_len:
        raise RequestError(
            f"the prompt has {num_prompt} tokens, and with at least one to generate that is over the model "
            f"length of {limits.max_model_len}: "
            "shorten it or raise --max-model-len"
        )
    if n > limits.max_num_seqs:
        raise RequestError(
            f"{field}={n} sequences are more than can run at once ({limits.max_num_seqs}): lower {field} or raise "
            f"--max-num-seqs"
        )
    if n > limits.max_num_batched_tokens:
        raise RequestError(
            f"{field}={n} is over the token budget of a step ({limits.max_num_batched_tokens}): lower {field} or raise "
            f"--max-num-batched-tokens"
        )
    max_tokens = _largest_that_fits(num_prompt, n, limits) if params.max_tokens is None else params.max_tokens
    if num_prompt + max_tokens > limits.max_model_len:
        raise RequestError(
            f"the prompt has {num_prompt} tokens and max_tokens is {max_tokens}: together over the model "
            f"length of {limits.max_model_len}; "
            "lower max_tokens, shorten the prompt or raise --max-model-len"
        )
    needed = limits.demand.of_request(num_prompt, num_prompt + max(max_tokens, 1), n)
    if needed > limits.num_blocks:
        raise RequestError(
            f"a prompt of {num_prompt} tokens with {field}={n} and max_tokens={max(max_tokens, 1)} can need "
            f"{needed} KV blocks of {limits.block_size} tokens, "
            f"and the pool has {limits.num_blocks}: lower {field} or max_tokens, shorten the prompt, or raise "
            f"--kv-cache-memory"
        )
    if params.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens={params.min_tokens} is over the {max_tokens} tokens that fit behind this prompt"
        )
    return max_tokens


def _largest_that_fits(num_prompt: int, n: int, limits: Limits) -> int:
    """The largest max_tokens that the model's length and the pool allow; below 1 where there is none."""
    return limits.demand.longest(num_prompt, n, limits.num_blocks, limits.max_model_len) - num_prompt


def _check_token_ids(prompt_token_ids: list[int], params: SamplingParams, limits: Limits) -> None:
    vocab_size = limits.vocab_size
    if not prompt_token_ids:
        raise RequestError("the prompt is empty: give at least one token")
    for name, ids in (
        ("the prompt", prompt_token_ids),
        ("stop_token_ids", params.stop_token_ids),
        ("allowed_token_ids", params.allowed_token_ids),
        ("logit_bias", params.logit_bias),
    ):
        if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
            wrong = next(i for i in ids if not 0 <= i < vocab_size)
            raise RequestError(f"{name} holds token id {wrong}, and this model's ids are 0 to {vocab_size - 1}")
    for name, count in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if count is not None and count > limits.max_logprobs:
            raise RequestError(
                f"{name}={count} is over the cap of {limits.max_logprobs}: lower it or raise --max-logprobs"
            )
