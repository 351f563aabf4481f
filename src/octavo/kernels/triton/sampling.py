"""`Kernels.sample` and `score` on a CUDA device: what the reference gives, without waiting for the device.

The host sends all that the rows ask for in one copy. Which rows are edited, drawn or cut it knows; what depends on
logits stays on the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import (
    NO_TOKEN,
    Indices,
    Sampled,
    SamplingBatch,
    Scores,
    TopTokens,
    tokens_to_score,
)
from octavo.kernels.sampling.philox import row_keys
from octavo.kernels.triton.edits import apply_edits, list_edits
from octavo.kernels.triton.logits_pieces import Rows
from octavo.kernels.triton.logprobs import make_finite, score_tokens, top_tokens
from octavo.kernels.triton.maxima import Maxima, find_maxima
from octavo.kernels.triton.race import race
from octavo.kernels.triton.truncation import find_floors
from octavo.kernels.upload import upload, upload_together

Tensors = Mapping[str, torch.Tensor]


def most_likely(logits: torch.Tensor, fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """As `ForwardPass.most_likely`, from `[n, vocab_size]` logits."""
    maxima = find_maxima(Rows(logits.contiguous()), upload(fallback, logits.device))
    return maxima.token_ids, maxima.broken


def sample(logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """As `Kernels.sample`, from logits of 16 or 32 bits."""
    if batch.is_plain:
        return Sampled(*most_likely(logits, batch.fallback))
    logits = logits.contiguous()
    kinds = RowKinds.of(batch, logits.shape[1])
    sent = upload_together(_arrays(batch, kinds, logits.shape[1]), logits.device)
    copies = _edited(logits, kinds, sent)
    rows = Rows(logits, copies, sent["places"]) if len(kinds.edited) else Rows(logits)
    maxima = find_maxima(rows, sent["fallback"])
    if len(kinds.drawn):
        _draw(rows, maxima, kinds, sent)
    token_ids = maxima.token_ids
    if len(kinds.beams):
        token_ids.index_fill_(0, sent["beams"], NO_TOKEN)
    scores = _scores(logits, token_ids, kinds, sent) if len(kinds.scored) else None
    candidates = _candidates(logits, copies[len(kinds.edited) :], kinds, sent) if len(kinds.beams) else None
    return Sampled(token_ids, maxima.broken, scores, candidates)


@dataclass(frozen=True, slots=True)
class RowKinds:
    """Which rows of a batch ask for what."""

    drawn: Indices
    cut: Indices
    """Those of them where top-k or top-p may cut something."""
    edited: Indices
    """Rows, none of them a beam, whose logits are edited."""
    beams: Indices
    scored: Indices
    """Rows, none of them a beam, that ask for logprobs."""
    scored_beams: Indices
    """Places in `beams`."""
    num_top: int
    """The most that one of `scored` asks for."""
    num_top_of_beams: int
    num_candidates: int
    """The most that a beam asks for."""

    @classmethod
    def of(cls, batch: SamplingBatch, vocab_size: int) -> "RowKinds":
        """What is known on the host."""
        parameters = batch.parameters
        is_beam = parameters["num_candidates"] > 0
        is_drawn = (parameters["temperature"] > 0) & ~is_beam
        is_cut = is_drawn & (_counts(parameters, vocab_size) | (parameters["top_p"] < 1))
        beams, scored, scored_beams = np.flatnonzero(is_beam), batch.scored_rows, batch.scored_beams
        num_told = parameters["num_logprobs"]
        return cls(
            drawn=np.flatnonzero(is_drawn),
            cut=np.flatnonzero(is_cut),
            edited=np.array([row for row in batch.edits if not is_beam[row]], np.int64),
            beams=beams,
            scored=scored,
            scored_beams=np.searchsorted(beams, scored_beams),
            num_top=int(num_told[scored].max(initial=0)),
            num_top_of_beams=int(num_told[scored_beams].max(initial=0)),
            num_candidates=min(int(parameters["num_candidates"].max(initial=0)), vocab_size),
        )


def _counts(parameters: NDArray[np.void], vocab_size: int) -> NDArray[np.bool_]:
    """The rows where top-k keeps fewer than all."""
    flags: NDArray[np.bool_] = (parameters["top_k"] > 0) & (parameters["top_k"] < vocab_size)
    return flags


def _arrays(batch: SamplingBatch, kinds: RowKinds, vocab_size: int) -> dict[str, NDArray[Any]]:
    """All that the device is told, by name."""
    parameters, num_rows = batch.parameters, len(batch.fallback)
    # A temperature that float32 rounds to zero would divide 0 by 0.
    temperatures = np.maximum(parameters["temperature"].astype(np.float32), np.finfo(np.float32).tiny)
    arrays: dict[str, NDArray[Any]] = {
        "fallback": batch.fallback,
        "beams": kinds.beams,
        "scored": kinds.scored,
        "named": batch.named_of_scored,
        "scored_beams": kinds.scored_beams,
        "edited": kinds.edited,
    }
    if len(kinds.drawn):
        words = row_keys(parameters["seed"], parameters["sequence_index"], batch.positions)
        arrays |= {
            "drawn": kinds.drawn.astype(np.int32),
            "cut": kinds.cut.astype(np.int32),
            "temperatures": temperatures,
            "keys": words.view(np.int32),
            "floors": parameters["min_p"].astype(np.float32),
            "top_k": np.where(_counts(parameters, vocab_size), parameters["top_k"], 0).astype(np.int32),
            "top_p": parameters["top_p"].astype(np.float64),
        }
    if batch.edits:
        copied = np.concatenate((kinds.edited, kinds.beams)).tolist()
        places = np.full(num_rows, -1, np.int32)
        places[kinds.edited] = np.arange(len(kinds.edited))
        own = ((place, batch.edits[row]) for place, row in enumerate(copied) if row in batch.edits)
        arrays |= {"places": places} | list_edits(own, vocab_size)
    return arrays


def _edited(logits: torch.Tensor, kinds: RowKinds, sent: Tensors) -> torch.Tensor:
    """`[num_edited + num_beams, vocab_size]` float32: edited logits, then the beams' edited log-probabilities."""
    num_edited = len(kinds.edited)
    copies = torch.empty((num_edited + len(kinds.beams), logits.shape[1]), dtype=torch.float32, device=logits.device)
    if num_edited:
        copies[:num_edited] = logits.index_select(0, sent["edited"])
    if len(kinds.beams):
        exact = make_finite(logits.index_select(0, sent["beams"]), sent["fallback"].index_select(0, sent["beams"]))
        torch.log_softmax(exact, dim=-1, out=copies[num_edited:])
    apply_edits(copies, sent)
    return copies


def _draw(rows: Rows, maxima: Maxima, kinds: RowKinds, sent: Tensors) -> None:
    """Tokens of drawn rows, in place of the likeliest."""
    floors, temperatures = sent["floors"], sent["temperatures"]
    if len(kinds.cut):
        find_floors(floors, rows, sent["cut"], maxima, temperatures, sent["top_k"], sent["top_p"])
    race(maxima.token_ids, rows, sent["drawn"], maxima.highest, temperatures, floors, sent["keys"])


def _scores(logits: torch.Tensor, token_ids: torch.Tensor, kinds: RowKinds, sent: Tensors) -> Scores:
    """Of the rows that ask; the others cost nothing."""
    own, chosen = (whole.index_select(0, sent["scored"]) for whole in (logits, token_ids))
    return score_tokens(own, tokens_to_score(chosen, sent["named"]), kinds.num_top)


def _candidates(logits: torch.Tensor, logprobs: torch.Tensor, kinds: RowKinds, sent: Tensors) -> TopTokens:
    """What may come next in beams, whose edited log-probabilities are `logprobs`."""
    logprobs.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    token_ids = top_tokens(logprobs, kinds.num_candidates)
    scores = None
    if len(kinds.scored_beams):
        asking = sent["scored_beams"]
        own = logits.index_select(0, sent["beams"].index_select(0, asking))
        scores = score_tokens(own, token_ids.index_select(0, asking), kinds.num_top_of_beams)
    return TopTokens(token_ids, logprobs.gather(1, token_ids), scores)
