"""What csrc/module.cpp offers. Addresses are those of contiguous memory that outlives the object it is given to."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

def instruction_set(name: str = "auto") -> str: ...
def copy_blocks(
    source: int, destination: int, block_bytes: int, source_ids: Integers, destination_ids: Integers
) -> None: ...

class Weight:
    def __init__(self, type: int, num_outputs: int, num_inputs: int, values: int, scales: int = 0) -> None: ...
    @property
    def num_outputs(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

class Program:
    def __init__(self, instruction_set: str, num_threads: int) -> None: ...
    @property
    def instruction_set(self) -> str: ...
    def buffer(self, width: int) -> int: ...
    def embedding(self, weight: Weight, out: int, of_positions: bool, scale: float, first_id: int) -> None: ...
    def norm(
        self,
        weight: Floats | None,
        bias: Floats | None,
        eps: float,
        centred: bool,
        hidden: int,
        residual: int,
        normalised: int,
        sum: int,
    ) -> None: ...
    def product(self, weight: Weight, bias: Floats | None, input: int, out: int) -> None: ...
    def activation(self, kind: int, input: int, out: int) -> None: ...
    def add(self, a: int, b: int, out: int) -> None: ...
    def experts(
        self,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        num_chosen: int,
        kind: int,
        hidden: int,
        scores: int,
        out: int,
    ) -> None: ...
    def all_reduce(self, reduce: Callable[[Floats], object], buffer: int) -> None: ...
    def attention(
        self,
        qkv: int,
        out: int,
        *,
        layer_group: int,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        window: int,
        softcap: float,
        query_norm: int,
        key_norm: int,
        norm_eps: float,
        cos_sin: int,
        rotary_dim: int,
        cache: int,
        num_blocks: int,
        num_layers: int,
        block_size: int,
        cache_type: int,
    ) -> None: ...
    def keep(self, buffer: int, head: Weight) -> None: ...
    def run(
        self,
        token_ids: Integers,
        positions: Integers,
        slots: Integers,
        query_starts: Integers,
        context_lens: Integers,
        tables: Integers,
        block_tables: Integers,
    ) -> None: ...
    def logits(self, weight: Weight, buffer: int, rows: Integers, out: Floats) -> None: ...
    def set_profiling(self, on: bool) -> None: ...
    def profile(self) -> list[tuple[str, float]]: ...
