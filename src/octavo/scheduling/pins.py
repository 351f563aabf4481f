"""Pinned prefixes (--pin-prefix): blocks that are computed at the start and stay, for all tenants."""

from collections.abc import Sequence

from octavo.memory import KVManager, chain_digest, chain_digests, chain_root

PINNED_ROOT = chain_root(scope="pinned")
"""Where the chains of pinned prefixes begin: neither tenant nor salt changes who finds them."""


class Pins:
    """What blocks of pinned prefixes are called. The memory holds the blocks themselves."""

    def __init__(self, memory: KVManager) -> None:
        self._memory = memory
        self._digests: set[bytes] = set()

    def hold(self, token_ids: Sequence[int]) -> None:
        """Keep the blocks of a prefix, which have been computed under `PINNED_ROOT`, for good.

        Prompts may end in its last block, or part from it there, as text behind it changes its last token. What they
        see is kept, too: in window groups that begins a block earlier.
        """
        digests = chain_digests(PINNED_ROOT, token_ids, self._memory.block_size)
        self._digests.update(digests)
        for limit in (len(digests), len(digests) - 1):
            self._memory.pin(self._memory.find_prefix(limit, lambda logical: digests[logical : logical + 1]))

    def digests_of(self, token_ids: Sequence[int]) -> list[bytes]:
        """What a prompt's first blocks are called in pinned chains, as far as it begins like one, short of its last
        token."""
        digests: list[bytes] = []
        size = self._memory.block_size
        for start in range(0, (len(token_ids) - 1) // size * size, size):
            digest = chain_digest(digests[-1] if digests else PINNED_ROOT, token_ids[start : start + size])
            if digest not in self._digests:
                break
            digests.append(digest)
        return digests
