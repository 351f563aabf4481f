"""What the model runner keeps on how each row is sampled: parameters, in columns. Nothing that changes with a token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.sampling_params import SamplingParams

_COLUMNS = np.dtype(
    [
        ("temperature", np.float64),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("repetition", np.float64),
        ("frequency", np.float64),
        ("presence", np.float64),
        ("min_tokens", np.int64),
        ("num_logprobs", np.int64),
        ("num_prompt_logprobs", np.int64),
        ("num_candidates", np.int64),
        ("seed", np.uint64),
        ("sequence_index", np.int64),
        ("fallback", np.int64),
        ("biased", np.bool_),
        ("restricted", np.bool_),
    ]
)

_LARGEST = np.iinfo(np.int64).max
"""Parameters that mean "all" or "never" from some number on may be larger than a column holds."""


@dataclass(frozen=True, slots=True)
class TokenLists:
    """A row's parameters of varying length, `[num_tokens]` each."""

    allowed: NDArray[np.int64]
    biased: NDArray[np.int64]
    biases: NDArray[np.float64]
    stops: NDArray[np.int64]


class SamplingTable:
    """How each row is sampled. Row ids are small and used again; the table grows to the largest one seen."""

    def __init__(self) -> None:
        self._columns = np.zeros(64, dtype=_COLUMNS)
        self._lists: dict[int, TokenLists] = {}

    def set_row(
        self,
        row: int,
        params: SamplingParams,
        seed: int,
        sequence_index: int,
        stop_token_ids: list[int],
        num_candidates: int = 0,
    ) -> None:
        """Start a row.

        Args:
            seed: the request's, 0 to 2^64 - 1.
            sequence_index: which of the request's sequences this is.
            stop_token_ids: the tokens that `min_tokens` holds back.
            num_candidates: of a beam, which is given these in place of a token.
        """
        self._make_room(row)
        # By name, as a tuple of sixteen values would hide a swap of two.
        values: dict[str, Any] = {
            "temperature": params.temperature,
            "top_k": min(max(params.top_k, 0), _LARGEST),
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repetition": params.repetition_penalty,
            "frequency": params.frequency_penalty,
            "presence": params.presence_penalty,
            "min_tokens": min(params.min_tokens, _LARGEST) if stop_token_ids else 0,
            "num_logprobs": -1 if params.logprobs is None else min(params.logprobs, _LARGEST),
            "num_prompt_logprobs": -1 if params.prompt_logprobs is None else min(params.prompt_logprobs, _LARGEST),
            "num_candidates": min(num_candidates, _LARGEST),
            "seed": seed,
            "sequence_index": sequence_index,
            "fallback": min(stop_token_ids, default=0),
            "biased": bool(params.logit_bias),
            "restricted": params.allowed_token_ids is not None,
        }
        self._columns[row] = tuple(values[name] for name in _COLUMNS.names or ())
        bias = params.logit_bias or {}
        self._lists[row] = TokenLists(
            allowed=np.array(params.allowed_token_ids or [], dtype=np.int64),
            biased=np.array(list(bias.keys()), dtype=np.int64),
            biases=np.array(list(bias.values()), dtype=np.float64),
            stops=np.array(stop_token_ids, dtype=np.int64),
        )

    def copy_row(self, parent: int, row: int, sequence_index: int) -> None:
        """Start a row that is sampled as `parent` is, but with random numbers of its own."""
        self._make_room(row)
        self._columns[row] = self._columns[parent]
        self._columns["sequence_index"][row] = sequence_index
        self._lists[row] = self._lists[parent]

    def clear_row(self, row: int) -> None:
        """Forget a row, if it is known."""
        if row < len(self._columns):
            self._columns[row] = np.zeros((), dtype=_COLUMNS)
        self._lists.pop(row, None)

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        """The rows' columns, a copy: `columns(rows)["temperature"]` is `[n]`, and so on.

        `num_logprobs` is -1 where none were asked for. `fallback` is the token of a row whose logits and masks leave
        none: its lowest stop token, as ending the sequence is the sane way out, or 0.
        """
        return self._columns[rows]

    def lists(self, row: int) -> TokenLists:
        """A row's lists of tokens."""
        return self._lists[row]

    def num_prompt_logprobs(self, row: int) -> int:
        """The row's `prompt_logprobs`; -1 where none were asked for."""
        return int(self._columns["num_prompt_logprobs"][row])

    def _make_room(self, row: int) -> None:
        if row >= len(self._columns):
            more = np.zeros(max(row + 1, 2 * len(self._columns)) - len(self._columns), dtype=_COLUMNS)
            self._columns = np.concatenate([self._columns, more])
