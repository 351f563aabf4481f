"""A batch of logits in, a token a row out, or candidates for a beam. `sample` tells the order of the steps; each has a
module beside this one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.outputs import Candidates, TokenLogprobs
from octavo.sampling.candidates import tell_logprobs, top_candidates
from octavo.sampling.drawing import draw, make_finite, most_likely
from octavo.sampling.logprobs import token_logprobs
from octavo.sampling.masks import add_bias, allow_bits, allow_only, forbid
from octavo.sampling.penalties import penalize_occurrence, penalize_repetition
from octavo.sampling.philox import row_keys
from octavo.sampling.ragged import Indices, TokenIds
from octavo.sampling.table import SamplingTable
from octavo.sampling.truncation import Cutoffs, truncate

TokenHistory = Callable[[int], tuple[TokenIds, TokenIds]]
"""From a row id to the token ids of its prompt and of its output."""
Flags = NDArray[np.bool_]
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One token a row: `token_ids` is `[n]` int64 on the logits' device; `logprobs` has None where not asked for.

    A beam has `NO_TOKEN` and no logprobs, but `candidates`, found by its place among the rows.
    """

    token_ids: torch.Tensor
    logprobs: list[list[TokenLogprobs] | None]
    candidates: list[tuple[int, Candidates]]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is known of the rows of one call, or of some of them: parallel arrays of length n."""

    table: SamplingTable
    rows: Indices
    columns: NDArray[np.void]
    positions: NDArray[np.int64]
    masks: list[bytes | None]

    def at(self, indices: Indices) -> "_Batch":
        """These rows only."""
        masks = [self.masks[index] for index in indices]
        return _Batch(self.table, self.rows[indices], self.columns[indices], self.positions[indices], masks)

    def column(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A column as a tensor on the device of `like`."""
        return torch.from_numpy(self.columns[name].copy()).to(like.device)

    @property
    def searching(self) -> Flags:
        return _flags(self.columns["num_candidates"] > 0)

    @property
    def random(self) -> Flags:
        return _flags(self.columns["temperature"] > 0)

    @property
    def penalized(self) -> Flags:
        return self.repeating | self.occurring

    @property
    def repeating(self) -> Flags:
        return _flags(self.columns["repetition"] != 1)

    @property
    def occurring(self) -> Flags:
        return _flags((self.columns["frequency"] != 0) | (self.columns["presence"] != 0))

    @property
    def masked(self) -> Flags:
        return _flags([mask is not None for mask in self.masks])

    @property
    def holding_back(self) -> Flags:
        return _flags(self.positions < self.columns["min_tokens"])

    @property
    def edited(self) -> Flags:
        """Rows whose logits change before a token is chosen."""
        asked = _flags(self.columns["restricted"] | self.columns["biased"])
        return asked | self.penalized | self.masked | self.holding_back


def sample(
    logits: torch.Tensor,
    table: SamplingTable,
    rows: Indices,
    output_positions: NDArray[np.int64],
    history: TokenHistory,
    masks: list[tuple[int, bytes]],
) -> SampleResult:
    """Choose the next token of each row.

    Allowed tokens and masks, logit_bias, penalties, then min_tokens edit the logits. Rows at temperature 0 take the
    most likely token; for the others follow temperature, top-k, top-p and min-p, in this order, and a race between the
    tokens left, each with the noise that belongs to (seed, sequence, position, token). A row's token depends on no
    other row, bit for bit. It is one that the masks allow, unless they allow none or the logits aren't numbers: see
    `drawing.make_finite`.

    Args:
        logits: `[n, vocab_size]`, any floating dtype; 16 bit is widened to float32. Not changed.
        table: how each row is sampled.
        rows: `[n]` row ids.
        output_positions: `[n]`, how many tokens each row has generated.
        history: asked for rows with penalties only.
        masks: (index in `rows`, bit mask over the vocabulary, lowest bit first), at most one a row.
    """
    mask_of = dict(masks)
    batch = _Batch(table, rows, table.columns(rows), output_positions, [mask_of.get(i) for i in range(len(rows))])
    drawn = ~batch.searching
    if drawn.all():
        token_ids = _choose(logits, batch, history)
        return SampleResult(token_ids, _logprobs(logits, token_ids, batch.columns["num_logprobs"]), [])
    token_ids = torch.full((len(logits),), NO_TOKEN, dtype=torch.int64, device=logits.device)
    if drawn.any():
        own = _indices(drawn, logits)
        token_ids[own] = _choose(logits.index_select(0, own), batch.at(np.flatnonzero(drawn)), history)
    logprobs = _logprobs(logits, token_ids, np.where(drawn, batch.columns["num_logprobs"], -1))
    return SampleResult(token_ids, logprobs, _search(logits, batch, history))


def _search(logits: torch.Tensor, batch: _Batch, history: TokenHistory) -> list[tuple[int, Candidates]]:
    """The candidates of the rows that are beams: by log-probability under the model's own distribution, edited as
    logits are and not made to add up to one again, so that a mask makes no sequence likelier."""
    places = np.flatnonzero(batch.searching)
    beams = batch.at(places)
    own = logits.index_select(0, _indices(batch.searching, logits))
    exact = own.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    make_finite(exact, torch.from_numpy(_fallback(logits.shape[1], beams)).to(logits.device))
    logprobs = exact.log_softmax(dim=-1)
    _edit(logprobs, beams, history)
    found = top_candidates(logprobs, beams.columns["num_candidates"].tolist())
    for index, num_top in enumerate(beams.columns["num_logprobs"].tolist()):
        if num_top >= 0:
            found[index] = tell_logprobs(own[index], found[index], num_top)
    return list(zip(places.tolist(), found, strict=True))


def _choose(logits: torch.Tensor, batch: _Batch, history: TokenHistory) -> torch.Tensor:
    """A token for each row; only rows that are drawn or edited have their logits copied."""
    copied = batch.random | batch.edited
    fallback = _fallback(logits.shape[1], batch)
    if not copied.any():
        return most_likely(logits, fallback)
    token_ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    plain = np.flatnonzero(~copied)
    if len(plain):
        own = _indices(~copied, logits)
        token_ids[own] = most_likely(logits.index_select(0, own), fallback[plain])
    chosen = _indices(copied, logits)
    exact = logits.index_select(0, chosen).to(torch.promote_types(logits.dtype, torch.float32))
    token_ids[chosen] = _choose_from_copy(exact, batch.at(np.flatnonzero(copied)), history)
    return token_ids


def _choose_from_copy(logits: torch.Tensor, batch: _Batch, history: TokenHistory) -> torch.Tensor:
    """As `_choose`, from logits that may be written to."""
    _edit(logits, batch, history)
    maxima = make_finite(logits, torch.from_numpy(_fallback(logits.shape[1], batch)).to(logits.device))
    if batch.random.all():
        return _draw(logits.sub_(maxima), batch)
    token_ids = logits.max(dim=-1).indices
    drawn = _indices(batch.random, logits)
    if len(drawn):
        token_ids[drawn] = _draw(logits[drawn] - maxima[drawn], batch.at(np.flatnonzero(batch.random)))
    return token_ids


def _edit(logits: torch.Tensor, batch: _Batch, history: TokenHistory) -> None:
    """Everything that changes logits, in place. Each edit touches only the rows that ask for it."""
    lists = [batch.table.lists(row) for row in batch.rows.tolist()]
    if len(rows := np.flatnonzero(batch.columns["restricted"])):
        allow_only(logits, rows, [lists[row].allowed for row in rows])
    if len(rows := np.flatnonzero(batch.masked)):
        allow_bits(logits, rows, [mask for mask in batch.masks if mask is not None])
    if len(rows := np.flatnonzero(batch.columns["biased"])):
        add_bias(logits, rows, [lists[row].biased for row in rows], [lists[row].biases for row in rows])
    if batch.penalized.any():
        _penalize(logits, batch, history)
    if len(rows := np.flatnonzero(batch.holding_back)):
        forbid(logits, rows, [lists[row].stops for row in rows])


def _penalize(logits: torch.Tensor, batch: _Batch, history: TokenHistory) -> None:
    tokens = {row: history(int(batch.rows[row])) for row in np.flatnonzero(batch.penalized).tolist()}
    if len(rows := np.flatnonzero(batch.repeating)):
        seen = [np.concatenate(tokens[row]) for row in rows.tolist()]
        penalize_repetition(logits, rows, seen, batch.columns["repetition"][rows])
    if len(rows := np.flatnonzero(batch.occurring)):
        outputs = [tokens[row][1] for row in rows.tolist()]
        paid = batch.columns[rows]
        penalize_occurrence(logits, rows, outputs, paid["frequency"], paid["presence"])


def _draw(scores: torch.Tensor, batch: _Batch) -> torch.Tensor:
    """Draw from logits whose highest is 0 in each row, so that a small temperature makes them -inf but never NaN."""
    # A temperature that this dtype rounds to zero would divide 0 by 0.
    temperature = batch.column("temperature", scores).to(scores.dtype).clamp_(min=torch.finfo(scores.dtype).tiny)
    scores.div_(temperature.unsqueeze(1))
    probabilities = scores.softmax(dim=-1)
    words = row_keys(batch.columns["seed"], batch.columns["sequence_index"], batch.positions)
    keys = torch.from_numpy(words.view(np.int32)).to(scores.device)
    cutoffs = Cutoffs(*(batch.column(name, scores) for name in Cutoffs._fields))
    token_ids = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for group in truncate(probabilities, cutoffs):
        token_ids[group.rows] = draw(group.probabilities, group.token_ids, keys[group.rows])
    return token_ids


def _logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_logprobs: NDArray[np.int64]
) -> list[list[TokenLogprobs] | None]:
    """An entry for each row that asked; the others cost nothing."""
    result: list[list[TokenLogprobs] | None] = [None] * len(num_logprobs)
    asked = num_logprobs >= 0
    if asked.any():
        chosen = _indices(asked, logits)
        told = token_logprobs(logits.index_select(0, chosen), token_ids[chosen], num_logprobs[asked].tolist())
        for index, entry in zip(np.flatnonzero(asked).tolist(), told, strict=True):
            result[index] = [entry]
    return result


def _fallback(vocab_size: int, batch: _Batch) -> NDArray[np.int64]:
    """`[n]`: the token of rows where none is possible."""
    stops: NDArray[np.int64] = batch.columns["fallback"]
    return np.where(stops < vocab_size, stops, 0)


def _flags(conditions: Any) -> Flags:
    return np.asarray(conditions, dtype=np.bool_)


def _indices(flags: Flags, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(flags)).to(like.device)
