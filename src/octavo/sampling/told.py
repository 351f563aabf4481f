"""From what the kernels have sampled to what a step output tells: tensors come to the host here and become
numbers."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores, TopTokens
from octavo.outputs import BeamCandidates, TokenLogprobs

Copy = Callable[[torch.Tensor], torch.Tensor]
"""Makes a tensor of the host's out of one of a device."""


def brought(sampled: Sampled, copy: Copy) -> Sampled:
    """What was sampled, copied to the host, but for the tokens."""
    scores, candidates = sampled.scores, sampled.candidates
    if candidates is not None:
        own = candidates.scores
        candidates = TopTokens(
            copy(candidates.token_ids), copy(candidates.logprobs), None if own is None else brought_scores(own, copy)
        )
    return replace(
        sampled,
        broken=copy(sampled.broken),
        scores=None if scores is None else brought_scores(scores, copy),
        candidates=candidates,
    )


def brought_scores(scores: Scores, copy: Copy) -> Scores:
    """Scores, copied to the host."""
    return Scores(
        copy(scores.token_ids),
        copy(scores.logprobs),
        copy(scores.ranks),
        copy(scores.top_token_ids),
        copy(scores.top_logprobs),
    )


def told_logprobs(scores: Scores, num_top: Sequence[int]) -> list[list[TokenLogprobs]]:
    """What is told at each position, of each of its tokens.

    Args:
        num_top: `[n]`, how many of the likeliest tokens to tell of at each position.
    """
    columns = (scores.token_ids, scores.logprobs, scores.ranks, scores.top_token_ids, scores.top_logprobs)
    return [
        [
            TokenLogprobs(token_id, logprob, rank, top_ids[:count], top_logprobs[:count])
            for token_id, logprob, rank in zip(token_ids, logprobs, ranks, strict=True)
        ]
        for count, token_ids, logprobs, ranks, top_ids, top_logprobs in zip(
            num_top, *(column.tolist() for column in columns), strict=True
        )
    ]


def row_logprobs(scores: Scores | None, batch: SamplingBatch) -> list[list[TokenLogprobs] | None]:
    """An entry for each row of the batch that asked; empty where none did."""
    if scores is None:
        return []
    asking = batch.scored_rows
    told: list[list[TokenLogprobs] | None] = [None] * len(batch.positions)
    counts = batch.parameters["num_logprobs"][asking].tolist()
    for row, own in zip(asking.tolist(), told_logprobs(scores, counts), strict=True):
        named = batch.named.get(row)
        told[row] = [own[0] if named is None else _with_named(own, len(named))]
    return told


def _with_named(own: Sequence[TokenLogprobs], count: int) -> TokenLogprobs:
    """The chosen token's, and in the place of the likeliest tokens the `count` that follow it."""
    first, named = own[0], own[1 : 1 + count]
    return TokenLogprobs(
        first.token_id,
        first.logprob,
        first.rank,
        [each.token_id for each in named],
        [each.logprob for each in named],
        [each.rank for each in named],
    )


def row_candidates(found: TopTokens | None, batch: SamplingBatch) -> list[tuple[int, BeamCandidates]]:
    """(row, its candidates) of each row of the batch that is a beam, without the impossible ones."""
    if found is None:
        return []
    beams, parameters = batch.beams, batch.parameters
    told_of: dict[int, list[TokenLogprobs]] = {}
    if found.scores is not None:
        asking = batch.scored_beams
        told = told_logprobs(found.scores, parameters["num_logprobs"][asking].tolist())
        told_of = dict(zip(asking.tolist(), told, strict=True))
    possible = (found.logprobs > float("-inf")).sum(dim=-1).tolist()
    candidates = []
    for row, wanted, most, token_ids, logprobs in zip(
        beams.tolist(),
        parameters["num_candidates"][beams].tolist(),
        possible,
        found.token_ids.tolist(),
        found.logprobs.tolist(),
        strict=True,
    ):
        count = min(wanted, most)
        candidates.append((row, BeamCandidates(token_ids[:count], logprobs[:count], told_of.get(row, [])[:count])))
    return candidates
