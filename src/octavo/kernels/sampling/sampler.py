"""A batch of logits in, a token a row out, or candidates for a beam: the order of the steps. Each has a module beside
this one."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.drawing import broken_rows, make_finite, most_likely
from octavo.kernels.sampling.interface import (
    NO_TOKEN,
    Indices,
    Penalties,
    RowEdits,
    Sampled,
    SamplingBatch,
    Scores,
    TopTokens,
    tokens_to_score,
)
from octavo.kernels.sampling.logprobs import score_tokens, top_tokens
from octavo.kernels.sampling.masks import add_bias, allow_bits, allow_only, forbid
from octavo.kernels.sampling.penalties import penalize_occurrence, penalize_repetition
from octavo.kernels.sampling.random_rows import DrawRows, draw_rows

Asked = TypeVar("Asked")


def sample(logits: torch.Tensor, batch: SamplingBatch, draw_rows: DrawRows = draw_rows) -> Sampled:
    """`Kernels.sample`: any device, any floating dtype. A backend may have its own way to draw."""
    if batch.is_plain:
        return Sampled(*most_likely(logits, batch.fallback))
    beams = batch.beams
    if not len(beams):
        token_ids, broken = _choose(logits, batch, draw_rows)
        return Sampled(token_ids, broken, _scores(logits, token_ids, batch))
    token_ids, broken = torch.full_like(logits[:, 0], NO_TOKEN, dtype=torch.int64), broken_rows(logits)
    drawn = np.setdiff1d(np.arange(len(logits)), beams)
    if len(drawn):
        own = _on_device(drawn, logits)
        token_ids[own] = _choose(logits.index_select(0, own), batch.at(drawn), draw_rows)[0]
    return Sampled(token_ids, broken, _scores(logits, token_ids, batch), _search(logits, batch))


def _scores(logits: torch.Tensor, token_ids: torch.Tensor, batch: SamplingBatch) -> Scores | None:
    """Of the rows that ask; the others cost nothing."""
    asking = batch.scored_rows
    if not len(asking):
        return None
    own = _on_device(asking, logits)
    num_top = int(batch.parameters["num_logprobs"][asking].max())
    told = tokens_to_score(token_ids[own], _on_device(batch.named_of_scored, logits))
    return score_tokens(logits.index_select(0, own), told, num_top)


def _search(logits: torch.Tensor, batch: SamplingBatch) -> TopTokens:
    """The candidates of the rows that are beams."""
    places = batch.beams
    beams = batch.at(places)
    own = logits.index_select(0, _on_device(places, logits))
    exact = own.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    make_finite(exact, _on_device(beams.fallback, logits))
    logprobs = exact.log_softmax(dim=-1)
    if beams.edits:
        _edit(logprobs, beams)
        logprobs.masked_fill_(logprobs.isnan(), -torch.inf)
    token_ids = top_tokens(logprobs, min(int(beams.parameters["num_candidates"].max()), logits.shape[1]))
    scores, asking = None, beams.scored_beams
    if len(asking):
        chosen = _on_device(asking, logits)
        num_top = int(beams.parameters["num_logprobs"][asking].max())
        scores = score_tokens(own.index_select(0, chosen), token_ids.index_select(0, chosen), num_top)
    return TopTokens(token_ids, logprobs.gather(1, token_ids), scores)


def _choose(logits: torch.Tensor, batch: SamplingBatch, draw_rows: DrawRows) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for each row, and which rows are broken; only rows that are edited have their logits copied for it."""
    rows, edited = np.arange(len(logits)), np.array(sorted(batch.edits), np.int64)
    if not len(edited):
        return _pick(logits, rows, batch, draw_rows)
    own, of_edited = _on_device(edited, logits), batch.at(edited)
    exact = logits.index_select(0, own).to(torch.promote_types(logits.dtype, torch.float32))
    token_ids, broken = _room(logits, len(rows))
    broken[own] = broken_rows(exact)
    _edit(exact, of_edited)
    token_ids[own] = _pick(exact, np.arange(len(edited)), of_edited, draw_rows)[0]
    others = np.setdiff1d(rows, edited)
    if len(others):
        own = _on_device(others, logits)
        token_ids[own], broken[own] = _pick(logits, others, batch.at(others), draw_rows)
    return token_ids, broken


def _pick(
    logits: torch.Tensor, rows: Indices, batch: SamplingBatch, draw_rows: DrawRows
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_choose`, of `rows` of logits that nothing changes any more; `batch` says how these rows are sampled."""
    is_random = batch.parameters["temperature"] > 0
    drawn, greedy = np.flatnonzero(is_random), np.flatnonzero(~is_random)
    if not len(greedy):
        return draw_rows(logits, rows, batch)
    token_ids, broken = _room(logits, len(rows))
    own = _on_device(greedy, logits)
    chosen = logits.index_select(0, _on_device(rows[greedy], logits))
    token_ids[own], broken[own] = most_likely(chosen, batch.fallback[greedy])
    if len(drawn):
        own = _on_device(drawn, logits)
        token_ids[own], broken[own] = draw_rows(logits, rows[drawn], batch.at(drawn))
    return token_ids, broken


def _room(logits: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For the tokens of some rows, and whether these are broken."""
    return (
        torch.empty(num_rows, dtype=torch.int64, device=logits.device),
        torch.empty(num_rows, dtype=torch.bool, device=logits.device),
    )


def _edit(logits: torch.Tensor, batch: SamplingBatch) -> None:
    """Everything that changes logits, in place. Each edit touches only the rows that ask for it."""
    rows, allowed = _asking(batch, lambda edits: edits.allowed)
    if allowed:
        allow_only(logits, rows, allowed)
    rows, masks = _asking(batch, lambda edits: edits.mask)
    if masks:
        allow_bits(logits, rows, masks)
    rows, biased = _asking(batch, lambda edits: edits.biased)
    if biased:
        add_bias(logits, rows, biased, _asking(batch, lambda edits: edits.biases)[1])
    rows, penalties = _asking(batch, lambda edits: edits.penalties)
    if penalties:
        _penalize(logits, rows, penalties)
    rows, held_back = _asking(batch, lambda edits: edits.held_back)
    if held_back:
        forbid(logits, rows, held_back)


def _asking(batch: SamplingBatch, edit: Callable[[RowEdits], Asked | None]) -> tuple[Indices, list[Asked]]:
    """The rows that have an edit of one kind, and what each of them asks for."""
    found = [(row, asked) for row, edits in batch.edits.items() if (asked := edit(edits)) is not None]
    return np.array([row for row, _ in found], np.int64), [asked for _, asked in found]


def _penalize(logits: torch.Tensor, rows: Indices, penalties: list[Penalties]) -> None:
    repeating = [index for index, own in enumerate(penalties) if own.repetition != 1]
    if repeating:
        seen = [np.concatenate((penalties[index].prompt, penalties[index].output)) for index in repeating]
        penalize_repetition(logits, rows[repeating], seen, np.array([penalties[i].repetition for i in repeating]))
    occurring = [index for index, own in enumerate(penalties) if own.frequency or own.presence]
    if occurring:
        outputs = [penalties[index].output for index in occurring]
        frequency, presence = np.array([(penalties[i].frequency, penalties[i].presence) for i in occurring]).T
        penalize_occurrence(logits, rows[occurring], outputs, frequency, presence)


def _on_device(array: NDArray[np.integer | np.floating], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(like.device)
