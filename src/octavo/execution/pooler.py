"""Pooling in the runner: what is kept of a prompt's hidden states from one of its steps to the next, and what is made
of them at its end."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.execution.plan import NewRow, Plan
from octavo.execution.row_tables import IntArray
from octavo.kernels.interface import ForwardPass
from octavo.kernels.upload import upload
from octavo.pooling import Activation, Pooling, PoolingParams, PoolingTask

ROUNDING = 1.5 * 2.0**26
"""Added to a state in float64 and taken off again, it leaves a whole multiple of 2**-26. Sums of such are exact up to
2**27, so neither the order of tokens nor the cuts of a prompt's steps change a bit of their mean."""
AVERAGED_AT_ONCE = 256
"""Tokens whose states are held in float64 at a time."""
BROKEN_STATES = "the model gave hidden states that are no finite numbers"


class Ends(Protocol):
    """A model, behind pooling."""

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, width]`, in the same dtype."""
        ...

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` float32 -> `[n, num_labels]`."""
        ...


@dataclass(slots=True)
class _Row:
    """A row whose prompt is pooled."""

    task: PoolingTask
    asked: PoolingParams
    kept: torch.Tensor | None = None
    """`[hidden_size]`: the sum of the states so far, in float64, or the first one; None where the last is wanted."""


@dataclass(frozen=True, slots=True)
class PooledRow:
    """What was pooled of a row: on the host once its step is over."""

    row: int
    task: PoolingTask
    asked: PoolingParams
    values: torch.Tensor
    """`[width]` float32: a vector as it is, or the logits of classes."""


class Pooler:
    """The rows that are pooled.

    Args:
        pooling: how.
        model: has the head, where `pooling` has labels.
    """

    def __init__(self, pooling: Pooling, model: object) -> None:
        self._pooling = pooling
        self._model = model
        self._rows: dict[int, _Row] = {}

    def set_row(self, new: NewRow) -> None:
        """Begin a row that pools."""
        if new.task != "generate" and new.pooling is not None:
            self._rows[new.row] = _Row(new.task, new.pooling)

    def clear_row(self, row: int) -> None:
        """Forget a row, if it is known."""
        self._rows.pop(row, None)

    def keep(self, plan: Plan, ends: IntArray, forward: ForwardPass) -> None:
        """Keep what pooling needs of the states of a step. A prompt that is computed again begins anew.

        Args:
            ends: `[num_rows]`: the place of each row's last token in the step's flat list.
        """
        if self._pooling.kind == "last" or not self._rows:
            return
        for index, (row, start, num_new) in enumerate(zip(plan.rows, plan.starts, plan.num_new, strict=True)):
            known = self._rows.get(row)
            if known is None or known.task == "score":
                continue
            first = int(ends[index]) + 1 - num_new
            if start == 0:
                known.kept = None
            if self._pooling.kind == "mean":
                known.kept = _sum(known.kept, first, num_new, forward)
            elif start == 0:
                known.kept = forward.hidden_states(np.array([first]))[0].clone()

    def pooled(self, plan: Plan, ends: IntArray, forward: ForwardPass, is_first_rank: bool = True) -> list[PooledRow]:
        """What is pooled of the rows of `plan.pooled`, in their order, on the device.

        Args:
            is_first_rank: other ranks only help to compute logits, and get nothing.
        """
        places: IntArray = ends[plan.pooled]
        rows = [self._rows[plan.rows[index]] for index in plan.pooled]
        asks_logits = [place for place, row in enumerate(rows) if row.task == "score"]
        logits = iter(forward.logits(places[asks_logits])) if asks_logits else iter(())
        if not is_first_rank:
            return []
        last = forward.hidden_states(places) if self._pooling.kind == "last" else None
        pooled = []
        for place, (row, index) in enumerate(zip(rows, plan.pooled, strict=True)):
            if row.task == "score":
                own = next(logits)
                values = own.index_select(0, upload(np.array(row.asked.label_token_ids, np.int64), own.device))
            else:
                num_tokens = plan.starts[index] + plan.num_new[index]
                values = self._values(row, row.kept if last is None else last[place], num_tokens)
            pooled.append(PooledRow(plan.rows[index], row.task, row.asked, values.float()))
        return pooled

    def _values(self, row: _Row, state: torch.Tensor | None, num_tokens: int) -> torch.Tensor:
        """The pooled state, or the logits that the head makes of it: each row by itself, so that its bits depend on no
        other."""
        if state is None:
            raise RuntimeError("a prompt that is pooled has not been computed from its first token on")
        if self._pooling.kind == "mean":
            state = state / num_tokens
        if row.task == "embed" and not self._pooling.dense:
            return state
        model: Ends = self._model  # type: ignore[assignment]
        pooled = state.float().unsqueeze(0)
        return (model.embed(pooled) if row.task == "embed" else model.classify(pooled))[0]

    def finished(self, pooled: PooledRow) -> bytes | None:
        """A row's numbers, as `StepOutput.pooled` has them; None where they are broken."""
        values: NDArray[np.float64] = pooled.values.double().numpy()
        if not np.isfinite(values).all():
            return None
        asked = pooled.asked
        if pooled.task == "embed":
            values = values[: asked.dimensions]
            told = asked.use_activation if asked.normalize is None else asked.normalize
            if self._pooling.normalize if told is None else told:
                values = values / max(float(np.sqrt(np.sum(values * values))), 1e-12)
        elif asked.use_activation is not False:
            values = _activated(values, "softmax" if pooled.task == "score" else self._pooling.activation)
        return values.astype("<f4").tobytes()


def _sum(so_far: torch.Tensor | None, first: int, count: int, forward: ForwardPass) -> torch.Tensor:
    """The sum of the states of some of a step's tokens, and of those before."""
    total = so_far
    for begin in range(first, first + count, AVERAGED_AT_ONCE):
        places = np.arange(begin, min(begin + AVERAGED_AT_ONCE, first + count))
        added = forward.hidden_states(places).double().add_(ROUNDING).sub_(ROUNDING).sum(0)
        total = added if total is None else total + added
    if total is None:
        raise ValueError("no tokens")
    return total


def _activated(logits: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    if activation == "identity":
        return logits
    if activation == "sigmoid" or len(logits) == 1:
        return 1 / (1 + np.exp(-logits))
    odds = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = odds / odds.sum()
    return shares
