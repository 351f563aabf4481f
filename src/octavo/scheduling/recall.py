"""What a waiting request gets back instead of computing it: blocks whose content the prefix cache still has."""

from dataclasses import dataclass, field

from octavo.config import PrefixCacheScope
from octavo.memory import BlockManager, chain_digest, chain_root
from octavo.scheduling.messages import EngineRequest
from octavo.scheduling.request import NO_ROW, Request, SequenceState

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
    num_blocks_taken: int = 0
    """Free blocks that this uses up."""

    @property
    def num_hit_blocks(self) -> int:
        """Distinct blocks that are found."""
        return len({block for blocks in self.hits.values() for block in blocks})

    def num_blocks_missing(self, request: Request, block_size: int) -> int:
        """Blocks to allocate, these included, until every sequence of the request is ready to sample."""
        held = {sequence: len(blocks) for sequence, blocks in self.hits.items()}
        return self.num_blocks_taken + request.num_blocks_missing(block_size, held)


def find(request: Request, memory: BlockManager) -> Recall:
    """Look up what a waiting request can get back. Costs a look-up for each block found, and no more after the
    first that is missing."""
    recall = Recall()
    if not request.reads_cache:
        return recall
    for sequence in request.sequences:
        blocks = _find_blocks(sequence, memory)
        if blocks and len(blocks) * memory.block_size >= sequence.num_computed:
            recall.hits[sequence] = blocks
    is_idle = memory.pool.index.is_idle
    recall.num_blocks_taken = len({block for blocks in recall.hits.values() for block in blocks if is_idle(block)})
    return recall


def take(recall: Recall, memory: BlockManager) -> None:
    """Hold what was found: the sequences begin with it, and need not fork from others."""
    for sequence, blocks in recall.hits.items():
        sequence.parent = None
        memory.adopt(sequence.table, blocks)


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
