"""A step that a device has been given, and where what it gives will be."""

from dataclasses import dataclass, field

import numpy as np
import torch

from octavo.execution.device_queue import Marker
from octavo.execution.pooler import PooledRow
from octavo.execution.row_tables import IntArray
from octavo.kernels.sampling.interface import Sampled, SamplingBatch, Scores


@dataclass(slots=True)
class DeviceOutput:
    """A step that has been started, and where its results will be: on the host, once `ended` has been waited for."""

    started: Marker
    prepared: Marker
    """Its moves come next…"""
    moved: Marker
    """…and end here."""
    readable: Marker
    """All blocks hold what they are to hold, but those that the step writes to."""
    ended: Marker
    moves: list[tuple[Marker, Marker]] = field(default_factory=list)
    """When each of its moves between cache and swap space began and ended."""
    written: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """The blocks that it writes to."""
    scores: list[tuple[Scores, int]] = field(default_factory=list)
    """Parts of the scored rows' prompt positions, each with the number of likeliest tokens to tell of…"""
    num_parts: list[int] = field(default_factory=list)
    """…and how many parts each of these rows has."""
    batch: SamplingBatch | None = None
    """How the sampled rows are sampled; None where there are none."""
    sampled: Sampled | None = None
    token_ids: torch.Tensor | None = None
    """`[num_sampled_positions]`."""
    rows: list[int] = field(default_factory=list)
    """The rows that are sampled."""
    row_of: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """`[num_sampled_positions]`: which row each belongs to."""
    accepted: list[range] | None = None
    """The positions whose tokens each row gets; None where each has one position."""
    in_flight: tuple[IntArray, IntArray, IntArray] | None = None
    """(rows, places, positions): which sampled positions have the tokens that rows lack at these places."""
    num_drafts: int | None = None
    """Where all rows but decode: their drafts."""
    pooled: list[PooledRow] = field(default_factory=list)
    """What was pooled of prompts."""
    faults: dict[int, str] = field(default_factory=dict)
    """What went wrong with a row, of those rows that failed."""

    @property
    def move_s(self) -> float:
        """Seconds that its moves took."""
        return sum(end.seconds_since(begin) for begin, end in self.moves)

    @property
    def compute_s(self) -> float:
        """Seconds that the rest of it took."""
        return self.ended.seconds_since(self.started) - self.moved.seconds_since(self.prepared)
