"""What one request does in a step: how many tokens each of its sequences computes, and the blocks that this takes."""

from typing import NamedTuple

from octavo.memory import BlockPool
from octavo.scheduling.request import Request, SequenceState


class Share(NamedTuple):
    """What one request does in a step: how many tokens each of its sequences computes, and whether all of them
    sample."""

    request: Request
    num_new: list[tuple[SequenceState, int]]
    samples: bool


def share_of(request: Request, max_tokens: int, block_size: int) -> Share:
    """A request samples when all its sequences reach their ends in this step; else it goes as far as `max_tokens` go,
    without any last token."""
    if request.is_decoding:
        return Share(request, [(sequence, 1) for sequence in request.sequences], True)
    whole = _distribute(request, max_tokens, block_size, hold_back=0)
    if whole is not None:
        return Share(request, whole, True)
    return Share(request, _distribute(request, max_tokens, block_size, hold_back=1) or [], False)


def num_blocks_needed(share: Share, pool: BlockPool) -> int:
    """Exactly the blocks that the share's allocation will take."""
    block_size = pool.block_size
    needed = 0
    for sequence, num_new in share.num_new:
        start = sequence.num_computed
        needed += -(-(start + num_new) // block_size) - -(-start // block_size)
    return needed if len(share.num_new) == 1 else needed + _num_copies_needed(share, pool)


def _distribute(
    request: Request, max_tokens: int, block_size: int, hold_back: int
) -> list[tuple[SequenceState, int]] | None:
    """Tokens to compute for each sequence that can move, all but the last `hold_back`; None where nothing may be held
    back and not all fit."""
    reach: dict[SequenceState, int] = {}
    num_new = []
    for sequence in request.sequences:
        if sequence.parent is not None and not _can_fork(sequence, reach, block_size):
            if hold_back:
                continue
            return None
        wanted = max(0, sequence.num_pending - hold_back)
        if wanted > max_tokens and not hold_back:
            return None
        wanted = min(wanted, max_tokens)
        max_tokens -= wanted
        reach[sequence] = sequence.num_computed + wanted
        if wanted or sequence.parent is not None or not hold_back:
            num_new.append((sequence, wanted))
    return num_new


def _can_fork(sequence: SequenceState, reach: dict[SequenceState, int], block_size: int) -> bool:
    """Whether the parent holds, by the end of this step, the tokens to share; a part of a block that must be copied at
    once, before it."""
    parent = sequence.parent
    if parent is None or reach.get(parent, -1) < sequence.fork_at:
        return False
    writes_into_shared = sequence.num_pending and sequence.fork_at % block_size
    return not writes_into_shared or (parent.parent is None and parent.table.num_tokens >= sequence.fork_at)


def _num_copies_needed(share: Share, pool: BlockPool) -> int:
    """Blocks for copy-on-write: every sequence that writes into a shared block copies it, but the last of its
    sharers."""
    writers: dict[int, int] = {}
    references: dict[int, int] = {}
    for sequence, num_new in share.num_new:
        logical, offset = divmod(sequence.num_computed, pool.block_size)
        if num_new and offset:
            block = (sequence.parent or sequence).table.block_ids[logical]
            writers[block] = writers.get(block, 0) + 1
            references.setdefault(block, pool.reference_counts[block])
            references[block] += sequence.parent is not None
    return sum(min(count, references[block] - 1) for block, count in writers.items())
