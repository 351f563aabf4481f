"""A batch of logits in, a token a row out, or candidates for a beam: the order of the steps. Each has a module beside
this one."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.drawing import broken_rows, draw, make_finite, most_likely
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
from octavo.kernels.sampling.philox import row_keys
from octavo.kernels.sampling.truncation import Cutoffs, truncate

Asked = TypeVar("Asked")


def sample(logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """`Kernels.sample`: any device, any floating dtype."""
    if batch.is_plain:
        return Sampled(*most_likely(logits, batch.fallback))
    broken = broken_rows(logits)
    beams = batch.beams
    if not len(beams):
        token_ids = _choose(logits, batch)
        return Sampled(token_ids, broken, _scores(logits, token_ids, batch))
    token_ids = torch.full((len(logits),), NO_TOKEN, dtype=torch.int64, device=logits.device)
    drawn = np.setdiff1d(np.arange(len(logits)), beams)
    if len(drawn):
        own = _on_device(drawn, logits)
        token_ids[own] = _choose(logits.index_select(0, own), batch.at(drawn))
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


def _choose(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """A token for each row; only rows that are drawn or edited have their logits copied."""
    is_copied = _is_random(batch)
    is_copied[list(batch.edits)] = True
    copied, plain = np.flatnonzero(is_copied), np.flatnonzero(~is_copied)
    if not len(copied):
        return most_likely(logits, batch.fallback)[0]
    token_ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if len(plain):
        own = _on_device(plain, logits)
        token_ids[own] = most_likely(logits.index_select(0, own), batch.fallback[plain])[0]
    chosen = _on_device(copied, logits)
    exact = logits.index_select(0, chosen).to(torch.promote_types(logits.dtype, torch.float32))
    token_ids[chosen] = _choose_from_copy(exact, batch.at(copied))
    return token_ids


def _choose_from_copy(logits: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """As `_choose`, from logits that may be written to."""
    _edit(logits, batch)
    maxima = make_finite(logits, _on_device(batch.fallback, logits))
    drawn = np.flatnonzero(_is_random(batch))
    if len(drawn) == len(logits):
        return _draw(logits.sub_(maxima), batch)
    token_ids = logits.max(dim=-1).indices
    if len(drawn):
        own = _on_device(drawn, logits)
        token_ids[own] = _draw(logits[own] - maxima[own], batch.at(drawn))
    return token_ids


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


def _draw(scores: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """Draw from logits whose highest is 0 in each row, so that a small temperature makes them -inf but never NaN."""
    # A temperature that this dtype rounds to zero would divide 0 by 0.
    temperature = _column(batch, "temperature", scores).to(scores.dtype).clamp_(min=torch.finfo(scores.dtype).tiny)
    scores.div_(temperature.unsqueeze(1))
    probabilities = scores.softmax(dim=-1)
    words = row_keys(batch.parameters["seed"], batch.parameters["sequence_index"], batch.positions)
    keys = _on_device(words.view(np.int32), scores)
    cutoffs = Cutoffs(*(_column(batch, name, scores) for name in Cutoffs._fields))
    token_ids = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for group in truncate(probabilities, cutoffs):
        token_ids[group.rows] = draw(group.probabilities, group.token_ids, keys[group.rows])
    return token_ids


def _is_random(batch: SamplingBatch) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = batch.parameters["temperature"] > 0
    return flags


def _column(batch: SamplingBatch, name: str, like: torch.Tensor) -> torch.Tensor:
    return _on_device(batch.parameters[name].copy(), like)


def _on_device(array: NDArray[np.integer | np.floating], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(like.device)
