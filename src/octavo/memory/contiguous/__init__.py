"""The paper's baselines: memory reserved in contiguous runs, as before paging (paper, sections 3.1 and 6.1)."""

from octavo.memory.contiguous.buddy import BuddyAllocator
from octavo.memory.contiguous.manager import ContiguousManager

__all__ = ["BuddyAllocator", "ContiguousManager"]
