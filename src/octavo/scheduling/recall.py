"""What a waiting request gets back instead of computing it: blocks whose content the prefix cache still has, and its
own from the swap space."""

from dataclasses import dataclass, field

from octavo.config import PrefixCacheScope
from octavo.memory import BlockTable, Demand, KVManager, Move, PrefixHit, Totals, chain_root
from octavo.scheduling.messages import EngineRequest
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import NO_ROW, SequenceState


def prefix_root(message: EngineRequest, scope: PrefixCacheScope) -> bytes | None:
    """Where the chains of a request's blocks begin: who shares its root may share its blocks. None shares nothing."""
    if scope == "off":
        return None
    fields: dict[str, str] = {"scope": scope}
    if scope == "tenant":
        fields["tenant"] = message.tenant
    if message.cache_salt is not None:
        fields["cache_salt"] = message.cache_salt
    if message.adapter is not None:
        fields["adapter"] = message.adapter
    return chain_root(**fields)


@dataclass(slots=True)
class Recall:
    """What a request would get back if it were admitted now. Nothing is held yet."""

    hits: dict[SequenceState, PrefixHit] = field(default_factory=dict)
    """For each sequence that finds any: its first blocks."""
    saved: dict[SequenceState, BlockTable] = field(default_factory=dict)
    """The tables that come back from the swap space."""
    found: dict[int, int] = field(default_factory=dict)
    """For blocks of the swap space, blocks of the pool that the index still has with the same content."""
    num_blocks_taken: int = 0
    """Free blocks that all this uses up."""
    num_copies: int = 0
    """Blocks that copy-on-write takes next in the tables that come back."""

    @property
    def num_hit_blocks(self) -> int:
        """Distinct logical blocks that are found instead of being computed."""
        return len({_identity(hit, logical) for hit in self.hits.values() for logical in range(hit.num_blocks)})

    def num_blocks_missing(self, request: Request, demand: Demand) -> int:
        """Blocks to allocate, these included, until every sequence of the request has sampled next."""
        reach = {sequence: hit.num_blocks for sequence, hit in self.hits.items()}
        reach |= {sequence: table.num_blocks for sequence, table in self.saved.items()}
        num_logical = self.num_copies + request.num_logical_blocks_missing(demand.block_size, reach)
        held = self._held_by_group(len(demand.layer_groups.groups)) if demand.has_windows else None
        return self.num_blocks_taken + demand.missing(num_logical, len(request.sequences), held)

    def _held_by_group(self, num_groups: int) -> list[int]:
        """Distinct blocks of each group that come back."""
        held: list[set[int]] = [set() for _ in range(num_groups)]
        for hit in self.hits.values():
            for of_group, blocks in zip(held, hit.groups, strict=True):
                of_group.update(blocks)
        for table in self.saved.values():
            for of_group, blocks, first in zip(held, table.groups, table.firsts, strict=True):
                of_group.update(-1 - block for block in blocks[first:])
        return [len(of_group) for of_group in held]


def _identity(hit: PrefixHit, logical: int) -> int:
    """What tells a hit's logical blocks from those of other hits of the request."""
    block = hit.block(0, logical)
    return -1 - logical if block is None else block


def find(request: Request, memory: KVManager) -> Recall:
    """Look up what a waiting request can get back. Costs a look-up for each block found, and no more after the
    first that is missing."""
    recall = Recall()
    for sequence in request.sequences:
        if sequence.saved is not None:
            _find_saved(recall, sequence, sequence.saved, memory)
        elif request.reads_cache:
            hit = _find_prefix(sequence, memory)
            if hit and hit.num_blocks * memory.block_size >= sequence.num_computed:
                recall.hits[sequence] = hit
    blocks_found = {*recall.found.values(), *(block for hit in recall.hits.values() for block in hit.blocks)}
    num_saved = memory.num_distinct_blocks(list(recall.saved.values()))
    recall.num_blocks_taken = memory.num_idle(blocks_found) + num_saved - len(recall.found)
    return recall


def take(recall: Recall, request: Request, memory: KVManager) -> list[Move]:
    """Hold what was found for a request that is admitted: its sequences go on from it, and need not fork from others.

    Returns:
        What is to be moved back from the swap space.
    """
    for sequence, hit in recall.hits.items():
        sequence.parent = None
        memory.hold(sequence.table, hit)
    moves = memory.swap_in([(saved, sequence.table) for sequence, saved in recall.saved.items()], recall.found)
    for sequence in recall.saved:
        sequence.saved = None
    request.note(moved_bytes=len(moves) * memory.block_bytes)
    _count(request, recall.num_hit_blocks * memory.block_size, memory.totals)
    return moves


def _count(request: Request, num_found: int, totals: Totals) -> None:
    """Note the tokens that a request has found, and those that it has to compute again."""
    num_recomputed = max(0, request.num_lost_tokens - num_found)
    request.num_lost_tokens = 0
    totals.num_recomputed_tokens += num_recomputed
    request.note(num_recomputed_tokens=num_recomputed)
    if request.first_scheduled_s is None and request.reads_cache:
        totals.num_queried_tokens += len(request.prompt_token_ids)
        totals.num_hit_tokens += num_found
        request.note(num_cached_tokens=num_found)


def _find_saved(recall: Recall, sequence: SequenceState, saved: BlockTable, memory: KVManager) -> None:
    """Add a table of the swap space, and which of its blocks the pool has."""
    size = memory.block_size
    recall.saved[sequence] = saved
    for mine, block in memory.find_blocks(saved, sequence.names_for(size)).items():
        recall.found.setdefault(mine, block)
    if saved.num_tokens % size:
        last = saved.groups[0][-1]
        sharers = [other for other in recall.saved.values() if other.groups[0][-1] == last]
        recall.num_copies += len(sharers) > 1


def _find_prefix(sequence: SequenceState, memory: KVManager) -> PrefixHit | None:
    """The indexed blocks that a sequence's tokens begin with, short of its last token: that one is computed for its
    logits."""
    request = sequence.request
    if sequence.parent is not None and sequence.row == NO_ROW:
        return None  # the runner learns its tokens from the fork
    limit = min(sequence.num_tokens - 1, sequence.num_known_tokens) // memory.block_size
    if memory.demand.has_windows:
        # What its windows have passed is not found again, so others could not fork from it there. And a fork that went
        # on from a hit, where the other one found less, would hold common blocks twice: more than it was admitted for.
        if sequence.parent is not None:
            return None
        limit = min(limit, request.fork_limits().get(sequence, sequence.num_tokens) // memory.block_size)
    if limit == 0 or limit * memory.block_size < sequence.num_computed:
        return None
    hit = memory.find_prefix(limit, sequence.names_for(memory.block_size))
    return hit if hit.num_blocks else None
