"""Where the KV lives: the block pool, block tables, copy-on-write, the prefix index, the swap space and the ledger.
Plain Python: nothing here loads torch or numpy."""

from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.demand import BlockDemand, Demand, ReservedDemand, most_at_once
from octavo.memory.ledger import GroupAccount, Ledger, Totals
from octavo.memory.manager import Fork, KVManager, TableChange
from octavo.memory.paged import PagedManager
from octavo.memory.prefix_chain import chain_digest, chain_digests, chain_root
from octavo.memory.prefix_index import PrefixIndex
from octavo.memory.prefix_lookup import PrefixHit
from octavo.memory.selection import make_demand, make_manager
from octavo.memory.swap_space import Move

__all__ = [
    "BlockDemand",
    "BlockPool",
    "BlockTable",
    "Demand",
    "Fork",
    "GroupAccount",
    "KVManager",
    "Ledger",
    "Move",
    "PagedManager",
    "PrefixHit",
    "PrefixIndex",
    "ReservedDemand",
    "TableChange",
    "Totals",
    "chain_digest",
    "chain_digests",
    "chain_root",
    "make_demand",
    "make_manager",
    "most_at_once",
]
