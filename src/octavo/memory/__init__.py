"""Where the KV lives: the block pool, block tables, copy-on-write, the prefix index, the swap space and the ledger.
Plain Python: nothing here loads torch or numpy."""

from octavo.memory.block_manager import BlockManager, TableChange
from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.ledger import BlockState, Ledger, Totals
from octavo.memory.prefix_chain import chain_digest, chain_root
from octavo.memory.prefix_index import PrefixIndex
from octavo.memory.swap_space import Move

__all__ = [
    "BlockManager",
    "BlockPool",
    "BlockState",
    "BlockTable",
    "Ledger",
    "Move",
    "PrefixIndex",
    "TableChange",
    "Totals",
    "chain_digest",
    "chain_root",
]
