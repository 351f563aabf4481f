"""Opening a model on a pool of so many blocks."""

from pathlib import Path
from typing import Any

from octavo import LLM
from octavo.config import EngineConfig
from octavo.execution.local import LocalExecutor


def open_with_blocks(folder: Path, num_blocks: int, num_swap_blocks: int | None = None, **knobs: Any) -> LLM:
    """A tiny model with these knobs and a KV cache of `num_blocks` blocks; the swap space is the default one where
    `num_swap_blocks` is None. Tokens are not guessed unless asked for: how many are goes by measured times, and with it
    what is preempted."""
    knobs = {"speculate": "off", **knobs}
    alone = {**knobs, "tensor_parallel_size": 1}
    probe = LocalExecutor(EngineConfig(model=str(folder), kv_cache_memory="1MiB", **alone))
    block_bytes = probe.capacity.block_bytes
    probe.close()
    if num_swap_blocks is not None:
        knobs["swap_space"] = num_swap_blocks * block_bytes
    return LLM(str(folder), tokenizer="smollm2", kv_cache_memory=num_blocks * block_bytes, **knobs)
