"""The prefix index: which block holds which content, and which of the blocks nobody holds is given up first."""

from collections import OrderedDict

from octavo.errors import EngineError


class PrefixIndex:
    """Full blocks by the digest of their content (`prefix_chain`), all operations O(1).

    A block that nobody holds any more is *idle*: it can be found until its memory is needed. Idle blocks are given up
    least recently used first; as tables let go of their blocks from the end backwards, that is leaves first.

    Of blocks with the same content, filled at once by several sequences, one is indexed. The others remember their
    digest: when let go, they refresh the indexed one, or take its place where it is gone.
    """

    __slots__ = ("_blocks", "_digests", "_idle")

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def find(self, digest: bytes) -> int | None:
        """The block with this content, held or idle."""
        return self._blocks.get(digest)

    def digest(self, block: int) -> bytes | None:
        """What the block's content is known as."""
        return self._digests.get(block)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def add(self, block: int, digest: bytes) -> None:
        """Note the content of a held block, whose slots are all filled and will not be written again."""
        self._digests[block] = digest
        self._blocks.setdefault(digest, block)

    def let_go(self, block: int) -> bool:
        """Take note that nobody holds `block` any more. True where it stays findable: it is idle now."""
        digest = self._digests.get(block)
        if digest is None:
            return False
        indexed = self._blocks.setdefault(digest, block)
        if indexed == block:
            self._idle[block] = None
            return True
        del self._digests[block]
        if indexed in self._idle:
            self._idle.move_to_end(indexed)
        return False

    def hold(self, block: int) -> None:
        """Take note that an idle block is held again.

        Raises:
            EngineError: it is not idle: its content is not known any more.
        """
        if block not in self._idle:
            raise EngineError(f"KV block {block} is free and was to be shared")
        del self._idle[block]

    def give_up(self) -> int:
        """Forget the least recently used idle block, and return it. There must be one."""
        block, _ = self._idle.popitem(last=False)
        del self._blocks[self._digests.pop(block)]
        return block
