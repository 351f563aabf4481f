"""What one request does in a step: how many tokens each of its sequences computes, and the blocks that this takes."""

from typing import NamedTuple

from octavo.memory import KVManager
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import SequenceState


class Allotment(NamedTuple):
    """What one request does in a step: how many tokens each of its sequences computes, and whether all of them
    sample."""

    request: Request
    num_new: list[tuple[SequenceState, int]]
    samples: bool

    @property
    def num_tokens(self) -> int:
        """Of all its sequences."""
        return sum(num_new for _, num_new in self.num_new)


def allot(request: Request, max_tokens: int, memory: KVManager) -> Allotment:
    """A request samples when all its sequences reach their ends in this step; else it goes as far as `max_tokens` go,
    without any last token."""
    if request.is_decoding:
        return Allotment(request, [(sequence, 1) for sequence in request.sequences], True)
    whole = _distribute(request, max_tokens, memory, hold_back=0)
    if whole is not None:
        return Allotment(request, whole, True)
    return Allotment(request, _distribute(request, max_tokens, memory, hold_back=1) or [], False)


def with_drafts(allotment: Allotment, max_drafts: int) -> Allotment:
    """The allotment of a request that decodes, with as many of its sequences' drafts as there is room for."""
    num_new = []
    for sequence, num_own in allotment.num_new:
        num_drafts = min(max_drafts, len(allotment.request.drafts.get(sequence, ())))
        max_drafts -= num_drafts
        num_new.append((sequence, num_own + num_drafts))
    return allotment._replace(num_new=num_new)


def num_blocks_needed(allotment: Allotment, memory: KVManager) -> int:
    """Exactly the blocks that will be allocated for it."""
    needed = 0
    for sequence, num_new in allotment.num_new:
        if sequence.parent is not None or sequence.table.num_tokens + num_new > sequence.table.num_writable:
            needed += memory.num_blocks_to_append((sequence.parent or sequence).table, sequence.num_computed, num_new)
    if len(allotment.num_new) == 1:  # no other sequence of the request has the block that it writes into
        return needed
    return needed + memory.num_copies_to_write(
        ((sequence.parent or sequence).table, sequence.num_computed, sequence.parent is not None)
        for sequence, num_new in allotment.num_new
        if num_new
    )


def _distribute(
    request: Request, max_tokens: int, memory: KVManager, hold_back: int
) -> list[tuple[SequenceState, int]] | None:
    """Tokens to compute for each sequence that can move, all but the last `hold_back`; None where nothing may be held
    back and not all fit."""
    reach: dict[SequenceState, int] = {}
    num_new = []
    # Window groups let go of what a sequence has passed, so it stays where others are to fork from it.
    fork_limits = request.fork_limits() if hold_back and memory.demand.has_windows else {}
    for sequence in request.sequences:
        if sequence.parent is not None and not _can_fork(sequence, reach, memory):
            if hold_back:
                continue
            return None
        wanted = max(0, sequence.num_pending - hold_back)
        if wanted > max_tokens and not hold_back:
            return None
        wanted = min(wanted, max_tokens)
        if sequence in fork_limits:
            wanted = max(0, min(wanted, fork_limits[sequence] - sequence.num_computed))
        max_tokens -= wanted
        reach[sequence] = sequence.num_computed + wanted
        if wanted or sequence.parent is not None or not hold_back:
            num_new.append((sequence, wanted))
    return num_new


def _can_fork(sequence: SequenceState, reach: dict[SequenceState, int], memory: KVManager) -> bool:
    """Whether the parent holds, by the end of this step, the tokens to share; a part of a block that must be copied at
    once, before it. Then the parent does not fork in this step itself: one block would be a copy's source and
    another's destination."""
    parent = sequence.parent
    if parent is None or reach.get(parent, -1) < sequence.fork_at:
        return False
    writes_into_shared = sequence.num_pending and (memory.forks_copy or sequence.fork_at % memory.block_size)
    return not writes_into_shared or (parent.parent is None and parent.table.num_tokens >= sequence.fork_at)
