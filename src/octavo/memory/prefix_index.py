"""The prefix index: which block holds which content, and which of the blocks nobody holds is evicted first."""

from collections import OrderedDict
from collections.abc import Iterable

from octavo.errors import EngineError


class PrefixIndex:
    """Full blocks by their layer group and the digest of their content (`prefix_chain`), all operations O(1).

    A block that nobody holds any more is *idle*: it can be found until its memory is needed. Idle blocks are evicted
    least recently used first; as tables release their blocks from the end backwards, that is leaves first.

    Of blocks with the same content, filled at once by several sequences, one is indexed. The others remember their
    digest: when released, they refresh the indexed one, or take its place where it is gone.
    """

    __slots__ = ("_blocks", "_idle", "_names")

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, bytes], int] = {}
        self._names: dict[int, tuple[int, bytes]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def find(self, group: int, digests: Iterable[bytes]) -> int | None:
        """The group's block, held or idle, that is known by the first of some digests that is known at all."""
        for digest in digests:
            block = self._blocks.get((group, digest))
            if block is not None:
                return block
        return None

    def name(self, block: int) -> tuple[int, bytes] | None:
        """The group and digest under which the block's content is known."""
        return self._names.get(block)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def add(self, block: int, group: int, digest: bytes) -> None:
        """Note the content of a held block, whose slots are all filled and will not be written again."""
        self._names[block] = group, digest
        self._blocks.setdefault((group, digest), block)

    def release(self, block: int) -> bool:
        """Take note that nobody holds `block` any more. True where it stays findable: it is idle now."""
        name = self._names.get(block)
        if name is None:
            return False
        indexed = self._blocks.setdefault(name, block)
        if indexed == block:
            self._idle[block] = None
            return True
        del self._names[block]
        if indexed in self._idle:
            self._idle.move_to_end(indexed)
        return False

    def acquire(self, block: int) -> None:
        """Take note that an idle block is held again.

        Raises:
            EngineError: it is not idle: its content is not known any more.
        """
        if block not in self._idle:
            raise EngineError(f"KV block {block} is free and was to be shared")
        del self._idle[block]

    def evict(self) -> int:
        """Forget the least recently used idle block, and return it. There must be one."""
        block, _ = self._idle.popitem(last=False)
        del self._blocks[self._names.pop(block)]
        return block
