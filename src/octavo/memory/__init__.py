"""Where the KV lives: the block pool, block tables, copy-on-write and the ledger. Plain Python: nothing here loads
torch or numpy."""

from octavo.memory.block_manager import BlockManager, TableChange
from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.ledger import BlockState, Ledger

__all__ = ["BlockManager", "BlockPool", "BlockState", "BlockTable", "Ledger", "TableChange"]
