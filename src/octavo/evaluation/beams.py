"""Beam search in the engine, against sending every beam anew as a one-token request at every step."""

import time
from collections.abc import Callable, Sequence

import msgspec

from octavo.engine.engine import Engine
from octavo.outputs import BeamCandidates, TokenLogprobs
from octavo.sampling_params import BeamSearchParams, SamplingParams
from octavo.scheduling.beam_search import BeamSearch
from octavo.scheduling.messages import EngineRequest, RequestUpdate

Hypotheses = list[list[int]]
"""Token ids, best first."""


class BeamFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for all prompts at once, in two ways, through one engine."""

    prompts: int
    prompt_tokens: int
    beam_width: int
    output_tokens: int
    engine_s: float
    resubmitted_s: float
    speedup: float
    prompts_with_equal_hypotheses: int


def measure(
    engine: Engine,
    prompts: Sequence[list[int]],
    beam_width: int,
    output_tokens: int,
    stepped: Callable[[], object] = lambda: None,
) -> BeamFigures:
    """Search in both ways, past end-of-sequence tokens, so that every hypothesis is as long.

    Args:
        prompts: token ids.
        stepped: called after each output token of the second way, which takes almost all of the time.

    Raises:
        RequestError: a prompt does not fit, or the beams are more than --max-logprobs tells of.
    """
    params = BeamSearchParams(beam_width=beam_width, max_tokens=output_tokens, ignore_eos=True).sampling_params()
    start_s = time.perf_counter()
    in_engine = search_in_engine(engine, prompts, params)
    engine_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    resubmitted = search_by_resubmitting(engine, prompts, params, stepped)
    resubmitted_s = time.perf_counter() - start_s
    return BeamFigures(
        prompts=len(prompts),
        prompt_tokens=sum(map(len, prompts)),
        beam_width=beam_width,
        output_tokens=output_tokens,
        engine_s=round(engine_s, 3),
        resubmitted_s=round(resubmitted_s, 3),
        speedup=round(resubmitted_s / engine_s, 2),
        prompts_with_equal_hypotheses=sum(a == b for a, b in zip(in_engine, resubmitted, strict=True)),
    )


def search_in_engine(engine: Engine, prompts: Sequence[list[int]], params: SamplingParams) -> list[Hypotheses]:
    """A request for each prompt."""
    updates = _run(engine, prompts, params)
    return [[sequence.token_ids for sequence in update.sequences] for update in updates]


def search_by_resubmitting(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams, stepped: Callable[[], object]
) -> list[Hypotheses]:
    """The same search above the engine: at each step a one-token request for each beam, with the beam's tokens as its
    prompt and the likeliest next tokens as its logprobs (as in vLLM's `LLM.beam_search`)."""
    if params.beams is None or params.max_tokens is None:
        raise ValueError("params must be a beam search's, with max_tokens")
    stops = frozenset(params.stop_token_ids or ())
    searches = [BeamSearch(params.beams, params.max_tokens, stops) for _ in prompts]
    one_token = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=searches[0].num_candidates)
    while any(search.beams for search in searches):
        texts = [
            prompt + beam.token_ids for prompt, search in zip(prompts, searches, strict=True) for beam in search.beams
        ]
        found = iter([_candidates(update) for update in _run(engine, texts, one_token)])
        for search in searches:
            if search.beams:
                search.advance([next(found) for _ in search.beams])
        stepped()
    return [[hypothesis.token_ids for hypothesis in search.hypotheses] for search in searches]


def _candidates(update: RequestUpdate) -> BeamCandidates:
    told: list[TokenLogprobs] = update.sequences[0].logprobs or []
    return BeamCandidates(told[0].top_token_ids, told[0].top_logprobs)


def _run(engine: Engine, prompts: Sequence[list[int]], params: SamplingParams) -> list[RequestUpdate]:
    """The last update of each prompt's request."""
    for number, prompt in enumerate(prompts):
        engine.add(EngineRequest(str(number), prompt, params, time.monotonic()))
    updates: dict[str, RequestUpdate] = {}
    while engine.has_unfinished:
        updates |= {update.request_id: update for update in engine.step()}
    return [updates[str(number)] for number in range(len(prompts))]
