"""The ragged batch: what the tokens of a step are, and where their KV lives."""

from dataclasses import dataclass

import torch

CONTEXT_CHUNK = 256
"""Tokens of context that kernels reduce on their own."""


@dataclass(frozen=True, slots=True)
class BatchExtent:
    """What a launch must know of a ragged batch on the host. It comes from the plan: no launch waits for the device."""

    longest_context: int
    """The largest of `RaggedBatch.context_lens`, or any number above it."""
    most_new: int
    """The most new tokens of one row, or any number above it."""
    fewest_new: int = 1
    """The fewest new tokens of one row, or any number below it."""
    num_shared: int = 0
    """The sum of `RaggedBatch.shared`."""


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """The tokens of one step: a flat list, and for each row how many are new and where its KV lives.

    All tensors are on the cache's device. Row `r` owns tokens `query_starts[r]` to `query_starts[r + 1]`, which are the
    last `query_starts[r + 1] - query_starts[r]` of its `context_lens[r]` tokens; so prefill, chunked prefill and decode
    differ only in numbers.
    """

    token_ids: torch.Tensor
    """`[num_tokens]` int64."""
    positions: torch.Tensor
    """`[num_tokens]` int64: each token's position in its row, from 0."""
    slots: torch.Tensor
    """`[num_groups, num_tokens]` int64: `physical block * block_size + offset`, where the token's K and V of each layer
    group are written."""
    query_starts: torch.Tensor
    """`[num_rows + 1]` int64."""
    context_lens: torch.Tensor
    """`[num_rows]` int64: tokens whose KV the row can see once this step's are written."""
    tables: torch.Tensor
    """`[num_rows]` int64: each row's place in `block_tables`."""
    block_tables: torch.Tensor
    """`[num_groups, num_tables, max_blocks]` int64: of each layer group the physical block of each logical block, in
    the tables of all rows that there are.

    Entries past a row's last block are arbitrary but valid ids. So are those of blocks that lie wholly behind the
    windows of all of a row's new tokens: such blocks may be another sequence's by now."""
    adapters: torch.Tensor | None = None
    """`[num_rows]` int64: the number of each row's adapter, 0 for none. None where no row in the engine has one."""
    shared: torch.Tensor | None = None
    """`[num_rows]` int64: how many first tokens of its context a row has in the same blocks as the row before it, in
    whole chunks of `CONTEXT_CHUNK`, in all layer groups that see everything. 0 unless both rows have one new token,
    which comes after those chunks. None where nobody has looked: each row's blocks are then read for it alone."""
    extent: BatchExtent | None = None
    """None where the host has not told: backends that need it then wait for the device."""
