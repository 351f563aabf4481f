"""What the model runner keeps on how each row is sampled: parameters, in columns. Nothing that changes with a token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import PARAMETERS, Indices, Penalties, RowEdits, SamplingBatch, TokenIds
from octavo.sampling_params import ALL_TOKENS, SamplingParams

TokenHistory = Callable[[int, int], tuple[TokenIds, TokenIds]]
"""From a row id and a number of output tokens to the token ids of its prompt and of so much of its output."""

_LARGEST = np.iinfo(np.int64).max
"""Parameters that mean "all" or "never" from some number on may be larger than a column holds."""


@dataclass(frozen=True, slots=True)
class _Edits:
    """What a row asks to be edited, before anything of its tokens is known. None asks for nothing."""

    allowed: NDArray[np.int64] | None
    biased: NDArray[np.int64] | None
    biases: NDArray[np.float64] | None
    penalties: tuple[float, float, float] | None
    """Repetition, frequency, presence."""
    stops: NDArray[np.int64]
    bad_words: Sequence[Sequence[int]]
    """Tokens that are not to follow one another."""

    def forbidden(self, output: TokenIds) -> list[int]:
        """The last tokens of bad words whose others end the output."""
        longest = max((len(word) for word in self.bad_words), default=1) - 1
        tail = output[max(len(output) - longest, 0) :].tolist()
        return [last for *firsts, last in self.bad_words if tail[len(tail) - len(firsts) :] == firsts]


class SamplingTable:
    """How each row is sampled. Row ids are small and used again; the table grows to the largest one seen."""

    def __init__(self) -> None:
        self._parameters = np.zeros(64, dtype=PARAMETERS)
        self._is_plain, self._is_edited = np.zeros((2, 64), np.bool_)
        """Rows that take their likeliest token in every step and ask for nothing else, no edits either; and rows with
        edits in every step."""
        self._fallback, self._min_tokens, self._num_prompt_logprobs = np.zeros((3, 64), np.int64)
        self._edits: dict[int, _Edits] = {}
        self._named: dict[int, NDArray[np.int64]] = {}
        """Of the rows that have `logprob_token_ids`."""

    def set_row(
        self,
        row: int,
        params: SamplingParams,
        seed: int,
        sequence_index: int,
        stop_token_ids: list[int],
        num_candidates: int = 0,
        bad_words: Sequence[Sequence[int]] = (),
    ) -> None:
        """Start a row.

        Args:
            seed: the request's, 0 to 2^64 - 1.
            sequence_index: which of the request's sequences this is.
            stop_token_ids: the tokens that `min_tokens` holds back.
            num_candidates: of a beam, which is given these in place of a token.
            bad_words: token ids that are not to follow one another, none of them empty.
        """
        self._make_room(row)
        self._named.pop(row, None)
        if params.logprob_token_ids is not None:
            self._named[row] = np.array(list(dict.fromkeys(params.logprob_token_ids)), dtype=np.int64)
        # Of the tokens whose probabilities add up to nothing there is one, the likeliest.
        temperature = params.temperature if params.top_p > 0 else 0.0
        values: dict[str, Any] = {
            "temperature": temperature,
            "top_k": min(max(params.top_k, 0), _LARGEST),
            "top_p": params.top_p or 1.0,
            "min_p": params.min_p,
            "num_logprobs": _num_told(params.logprobs) if params.logprob_token_ids is None else 0,
            "num_candidates": min(num_candidates, _LARGEST),
            "seed": seed,
            "sequence_index": sequence_index,
        }
        # By name, as a tuple of so many values would hide a swap of two.
        self._parameters[row] = tuple(values[name] for name in PARAMETERS.names or ())
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        bias = params.logit_bias or {}
        edits = self._edits[row] = _Edits(
            allowed=None if params.allowed_token_ids is None else np.array(params.allowed_token_ids, dtype=np.int64),
            biased=np.array(list(bias.keys()), dtype=np.int64) if bias else None,
            biases=np.array(list(bias.values()), dtype=np.float64) if bias else None,
            penalties=penalties if penalties != (1, 0, 0) else None,
            stops=np.array(stop_token_ids, dtype=np.int64),
            bad_words=bad_words,
        )
        self._is_edited[row] = bool(bad_words) or any(
            edit is not None for edit in (edits.allowed, edits.biased, edits.penalties)
        )
        # Of a row that may take no token: ending its sequence is the sane way out.
        self._fallback[row] = min(stop_token_ids, default=0)
        self._min_tokens[row] = min(params.min_tokens, _LARGEST) if stop_token_ids else 0
        is_asked = temperature > 0 or params.tells_logprobs or num_candidates > 0
        self._is_plain[row] = not (is_asked or self._is_edited[row] or self._min_tokens[row])
        self._num_prompt_logprobs[row] = _num_told(params.prompt_logprobs)

    def copy_row(self, parent: int, row: int, sequence_index: int) -> None:
        """Start a row that is sampled as `parent` is, but with random numbers of its own."""
        self._make_room(row)
        for column in self._columns:
            column[row] = column[parent]
        self._parameters["sequence_index"][row] = sequence_index
        self._edits[row] = self._edits[parent]
        self._named.pop(row, None)
        if parent in self._named:
            self._named[row] = self._named[parent]

    def clear_row(self, row: int) -> None:
        """Forget a row, if it is known."""
        self._edits.pop(row, None)
        self._named.pop(row, None)

    def batch(
        self, rows: Indices, positions: NDArray[np.int64], history: TokenHistory, masks: Sequence[tuple[int, bytes]]
    ) -> SamplingBatch:
        """How some rows are sampled now.

        Args:
            rows: `[n]` row ids. One that has drafts comes several times.
            positions: `[n]`, how many output tokens lie before the one to sample.
            history: asked for rows with penalties only.
            masks: (index in `rows`, bit mask over the vocabulary, lowest bit first), at most one a row.
        """
        is_held_back = positions < self._min_tokens[rows]
        edited = np.flatnonzero(self._is_edited[rows] | is_held_back).tolist()
        mask_of = dict(masks)
        edits = {
            index: self._row_edits(
                int(rows[index]), int(positions[index]), bool(is_held_back[index]), history, mask_of.get(index)
            )
            for index in sorted({*edited, *mask_of})
        }
        named = {}
        if self._named:
            named = {index: self._named[row] for index, row in enumerate(rows.tolist()) if row in self._named}
        return SamplingBatch(self._fallback[rows], self._parameters[rows], positions, edits, named=named)

    def plain_batch(self, rows: Indices, masks: Sequence[tuple[int, bytes]]) -> SamplingBatch | None:
        """As `batch`, of rows that all take their likeliest token and ask for nothing else; None where one asks for
        more."""
        if masks or not self._is_plain[rows].all():
            return None
        return SamplingBatch(self._fallback[rows], self._parameters[:0], self._min_tokens[:0], is_plain=True)

    def are_beams(self, rows: Indices) -> NDArray[np.bool_]:
        """`[n]`: which rows are given candidates in place of a token."""
        flags: NDArray[np.bool_] = self._parameters["num_candidates"][rows] > 0
        return flags

    def num_prompt_logprobs(self, row: int) -> int:
        """The row's `prompt_logprobs`; -1 where none were asked for."""
        return int(self._num_prompt_logprobs[row])

    def _row_edits(
        self, row: int, position: int, is_held_back: bool, history: TokenHistory, mask: bytes | None
    ) -> RowEdits:
        own = self._edits[row]
        held_back = own.stops if is_held_back else None
        if own.bad_words:
            forbidden = np.array(own.forbidden(history(row, position)[1]), dtype=np.int64)
            held_back = forbidden if held_back is None else np.concatenate([held_back, forbidden])
        return RowEdits(
            allowed=own.allowed,
            mask=mask,
            biased=own.biased,
            biases=own.biases,
            penalties=None if own.penalties is None else Penalties(*history(row, position), *own.penalties),
            held_back=held_back,
        )

    @property
    def _columns(self) -> list[NDArray[Any]]:
        flags = [self._is_plain, self._is_edited]
        return [self._parameters, *flags, self._fallback, self._min_tokens, self._num_prompt_logprobs]

    def _make_room(self, row: int) -> None:
        missing = row + 1 - len(self._parameters)
        if missing > 0:
            more = max(missing, len(self._parameters))
            grown = [np.concatenate([column, np.zeros(more, column.dtype)]) for column in self._columns]
            self._parameters, self._is_plain, self._is_edited = grown[:3]
            self._fallback, self._min_tokens, self._num_prompt_logprobs = grown[3:]


def _num_told(logprobs: int | None) -> int:
    """How many of the likeliest tokens are told of; -1 where nothing is asked for."""
    if logprobs is None:
        return -1
    return _LARGEST if logprobs == ALL_TOKENS else min(logprobs, _LARGEST)
