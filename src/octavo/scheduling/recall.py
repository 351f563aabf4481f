"""What a waiting request gets back instead of computing it: blocks whose content the prefix cache still has, and its
own from the swap space."""

from dataclasses import dataclass, field

from octavo.config import PrefixCacheScope
from octavo.memory import BlockManager, BlockTable, Move, Totals, chain_digest, chain_root
from octavo.scheduling.messages import EngineRequest
from octavo.scheduling.request import Request, SequenceState
from octavo.scheduling.rows import NO_ROW

PINNED_ROOT = chain_root(scope="pinned")
"""Where the chains of pinned prefixes begin: neither tenant nor salt changes who finds them."""


def prefix_root(message: EngineRequest, scope: PrefixCacheScope) -> bytes | None:
    """Where the chains of a request's blocks begin: who shares its root may share its blocks. None shares nothing."""
    if scope == "off":
        return None
    fields: dict[str, str] = {"scope": scope}
    if scope == "tenant":
        fields["tenant"] = message.tenant
    if message.cache_salt is not None:
        fields["cache_salt"] = message.cache_salt
    return chain_root(**fields)


def pinned_prefix(prompt_token_ids: list[int], memory: BlockManager) -> list[int]:
    """The pinned blocks that a prompt begins with, short of its last token."""
    blocks: list[int] = []
    size, digest = memory.block_size, PINNED_ROOT
    for logical in range((len(prompt_token_ids) - 1) // size):
        digest = chain_digest(digest, prompt_token_ids[logical * size : (logical + 1) * size])
        block = memory.pool.index.find(digest)
        if block is None:
            break
        blocks.append(block)
    return blocks


@dataclass(slots=True)
class Recall:
    """What a request would get back if it were admitted now. Nothing is held yet."""

    hits: dict[SequenceState, list[int]] = field(default_factory=dict)
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
        """Distinct blocks that are found instead of being computed."""
        return len({block for blocks in self.hits.values() for block in blocks})

    def num_blocks_missing(self, request: Request, block_size: int) -> int:
        """Blocks to allocate, these included, until every sequence of the request has sampled next."""
        held = {sequence: len(blocks) for sequence, blocks in self.hits.items()}
        held |= {sequence: len(table.block_ids) for sequence, table in self.saved.items()}
        return self.num_blocks_taken + self.num_copies + request.num_blocks_missing(block_size, held)


def find(request: Request, memory: BlockManager) -> Recall:
    """Look up what a waiting request can get back. Costs a look-up for each block found, and no more after the
    first that is missing."""
    recall = Recall()
    for sequence in request.sequences:
        if sequence.saved is not None:
            _find_saved(recall, sequence, sequence.saved, memory)
        elif request.reads_cache:
            blocks = _find_blocks(sequence, memory)
            if blocks and len(blocks) * memory.block_size >= sequence.num_computed:
                recall.hits[sequence] = blocks
    blocks_found = {*recall.found.values(), *(block for blocks in recall.hits.values() for block in blocks)}
    blocks_saved = {block for table in recall.saved.values() for block in table.block_ids}
    num_idle = sum(memory.pool.index.is_idle(block) for block in blocks_found)
    recall.num_blocks_taken = num_idle + len(blocks_saved) - len(recall.found)
    return recall


def take(recall: Recall, request: Request, memory: BlockManager) -> list[Move]:
    """Hold what was found for a request that is admitted: its sequences go on from it, and need not fork from others.

    Returns:
        What is to be moved back from the swap space.
    """
    for sequence, blocks in recall.hits.items():
        sequence.parent = None
        memory.adopt(sequence.table, blocks)
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


def _find_saved(recall: Recall, sequence: SequenceState, saved: BlockTable, memory: BlockManager) -> None:
    """Add a table of the swap space, and which of its blocks the pool has."""
    request, size = sequence.request, memory.block_size
    recall.saved[sequence] = saved
    pinned = request.pinned_blocks
    for logical in range(saved.num_tokens // size):
        block: int | None = pinned[logical] if logical < len(pinned) else None
        if block is None and request.prefix_root is not None:
            block = memory.pool.index.find(sequence.digest(logical, size))
        if block is not None:
            recall.found.setdefault(saved.block_ids[logical], block)
    if saved.num_tokens % size:
        last = saved.block_ids[-1]
        sharers = [other for other in recall.saved.values() if other.block_ids[-1] == last]
        recall.num_copies += len(sharers) > 1


def _find_blocks(sequence: SequenceState, memory: BlockManager) -> list[int]:
    """The indexed blocks that a sequence's tokens begin with, short of its last token: that one is computed for its
    logits."""
    request = sequence.request
    if sequence.parent is not None and sequence.row == NO_ROW:
        return []  # the runner learns its tokens from the fork
    limit = min(sequence.num_tokens - 1, sequence.num_known_tokens) // memory.block_size
    if limit * memory.block_size < sequence.num_computed:
        return []
    blocks = request.pinned_blocks[:limit]
    if request.prefix_root is not None:
        for logical in range(len(blocks), limit):
            block = memory.pool.index.find(sequence.digest(logical, memory.block_size))
            if block is None:
                break
            blocks.append(block)
    return blocks
