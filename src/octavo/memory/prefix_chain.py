"""Names for the content of full blocks: a chain of SHA-256 digests, each over its parent's and the block's tokens."""

import hashlib
import struct
from collections.abc import Sequence


def chain_root(**fields: str) -> bytes:
    """The digest that a chain begins with: what changes a block's KV, or who may share it, beside the tokens.

    Every field is hashed with its name and its length. So no two sets of fields can be confused, and one that is left
    out is not one that is empty.
    """
    parts = [part.encode("utf-8", "surrogatepass") for name in sorted(fields) for part in (name, fields[name])]
    return _digest(b"root", *parts)


def chain_digest(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The digest of a full block behind the one (or the root) whose digest is `parent`: equal exactly where root and
    all tokens so far are."""
    return _digest(b"block", parent, struct.pack(f"<{len(token_ids)}q", *token_ids))


def chain_digests(root: bytes, token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """The digests of the full blocks of a sequence with these tokens."""
    digests = [root]
    for end in range(block_size, len(token_ids) + 1, block_size):
        digests.append(chain_digest(digests[-1], token_ids[end - block_size : end]))
    return digests[1:]


def _digest(*fields: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(field).to_bytes(8, "little") + field for field in fields)).digest()
