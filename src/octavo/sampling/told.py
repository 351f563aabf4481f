"""From what the kernels have sampled to what a step output tells: tensors become numbers here, and are waited for."""

from collections.abc import Sequence

from octavo.kernels.sampling.interface import SamplingBatch, Scores, TopTokens
from octavo.outputs import BeamCandidates, TokenLogprobs


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
        told[row] = own
    return told


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
