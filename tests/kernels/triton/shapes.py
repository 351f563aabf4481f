"""Classes of shapes in which the Triton backend launches attention and block copies, and these launches, on tensors
without memory."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any, Protocol

import torch

from octavo.errors import ConfigError
from octavo.kernels import Needs, select_kernels
from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.triton.attention import LEAST_SHARED
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.layout import vectors
from octavo.layer_groups import Full, Window, one_group

MAX_MODEL_LEN = 8192
NUM_BLOCKS = 64
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
Step = tuple[str, int, int, int]
"""What it is called, rows, new tokens of each, context."""
STEPS: tuple[Step, ...] = (
    ("decode", 7, 1, 300),
    ("decode of one chunk", 7, 1, 200),
    ("drafts", 7, 3, 300),
    ("prefill", 3, 500, 700),
)
SPECIAL_STEPS: tuple[Step, ...] = (("decode", 1, 1, 300), ("decode", 16, 1, 5000), ("prefill", 1, 512, 512))
"""Triton compiles a kernel again for numbers that are 1 or divisible by 16."""

Case = tuple[str, Callable[[], object]]
"""A name, and a call that launches kernels."""


class Job(Protocol):
    """Launches that differ from those of other jobs in what their kernels are compiled for."""

    def cases(self) -> Iterator[Case]:
        """The launches."""
        ...


@dataclass(frozen=True)
class Shape:
    """What of a model and its cache the kernels of attention and blocks are compiled for."""

    dtype: torch.dtype = torch.bfloat16
    """Of activations."""
    cache_dtype: torch.dtype | None = None
    """None is that of activations."""
    head_dim: int = 128
    block_size: int = 16
    num_kv_heads: int = 8
    group: int = 4
    """Query heads that share a KV head."""
    window: int | None = None
    is_causal: bool = True
    """Without a window."""
    softcap: float | None = None
    rotary: float = 1.0
    """Share of a head that is rotated."""
    normalises: bool = False
    """Whether query and key heads have norms."""
    steps: tuple[Step, ...] = STEPS

    def __str__(self) -> str:
        told = [name_of(self.dtype)]
        if self.cache_dtype is not None:
            told += [f"{name_of(self.cache_dtype)} cache"]
        told += [f"{self.num_kv_heads} x {self.group} heads of {self.head_dim}", f"blocks of {self.block_size}"]
        told += [f"window {self.window}"] * (self.window is not None)
        told += ["both ways"] * (not self.is_causal)
        told += [f"softcap {self.softcap}"] * (self.softcap is not None)
        told += [f"rotary {self.rotary}"] * (self.rotary != 1.0)
        told += ["head norms"] * self.normalises
        return ", ".join(told)

    @property
    def spec(self) -> AttentionSpec:
        """The attention of a layer."""
        rotated = int(self.head_dim * self.rotary)
        norm = meta(self.head_dim, dtype=self.dtype) if self.normalises else None
        return AttentionSpec(
            layer=3,
            num_heads=self.num_kv_heads * self.group,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            kind=Full(self.is_causal) if self.window is None else Window(self.window),
            softcap=self.softcap,
            cos_sin=meta(MAX_MODEL_LEN, rotated, dtype=torch.float32) if rotated else None,
            query_norm=norm,
            key_norm=norm,
        )

    @property
    def cache(self) -> KVCache:
        """Of four layers."""
        dtype = self.cache_dtype or self.dtype
        shape = CacheShape(NUM_BLOCKS, one_group(4), self.block_size, self.num_kv_heads, self.head_dim, dtype)
        return KVCache(shape, meta(NUM_BLOCKS, shape.block_bytes, dtype=torch.uint8))

    @property
    def refusal(self) -> str | None:
        """Why the backend does not serve it; None where it does."""
        try:
            select_kernels(Needs(torch.device("cuda"), self.dtype, self.cache_dtype or self.dtype), "triton")
            vectors(self.cache)
        except ConfigError as error:
            return str(error)
        return None

    def cases(self) -> Iterator[Case]:
        """Steps with their KV writes, and copies of blocks."""
        kernels = TritonKernels()
        for name, num_rows, num_new, context in self.steps:
            told = f"{name} of {num_rows} x {context}, {self}"
            yield told, partial(self._attend, kernels, num_rows, num_new, context)
        for context in (300, 80_000):
            told = f"decode of rows that share blocks, of 7 x {context}, {self}"
            yield told, partial(self._attend, kernels, 7, 1, context, LEAST_SHARED)
        cache, ids = self.cache, meta(3)
        space = dataclasses.replace(cache, shape=dataclasses.replace(cache.shape, num_blocks=NUM_BLOCKS // 2))
        yield f"block copy, {self}", partial(kernels.copy_blocks, cache, cache, ids, ids)
        yield f"swap, {self}", partial(kernels.copy_blocks, cache, space, ids, ids)

    def _attend(self, kernels: TritonKernels, num_rows: int, num_new: int, context: int, num_shared: int = 0) -> None:
        num_tokens, spec, cache = num_rows * num_new, self.spec, self.cache
        extent = BatchExtent(context, num_new, num_new, num_shared)
        batch = RaggedBatch(
            token_ids=meta(num_tokens),
            positions=meta(num_tokens),
            slots=meta(1, num_tokens),
            query_starts=meta(num_rows + 1),
            context_lens=meta(num_rows),
            tables=meta(num_rows),
            block_tables=meta(1, 256, MAX_MODEL_LEN // self.block_size),
            shared=meta(num_rows),
            extent=extent,
        )
        width = (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
        kernels.attention(meta(num_tokens, width, dtype=self.dtype), ForwardContext(cache, batch, extent), spec)


AXES: dict[str, list[dict[str, Any]]] = {
    "numbers": [
        *({"dtype": dtype} for dtype in FLOATS),
        *({"cache_dtype": dtype} for dtype in (torch.int8, torch.float8_e4m3fn)),
    ],
    "head": [{"head_dim": size} for size in (64, 80, 96, 128, 192, 256)],
    "block": [{"block_size": size} for size in (16, 32, 48, 64, 128, 256)],
    "heads": [
        {"num_kv_heads": kv_heads, "group": group} for kv_heads, group in ((32, 1), (8, 4), (4, 7), (1, 8), (1, 32))
    ],
    "seen": [
        *({"window": window, "softcap": softcap} for window in (None, 1024, 100) for softcap in (None, 30.0)),
        {"is_causal": False},
    ],
    "rotation": [{"rotary": rotary, "normalises": norms} for rotary in (1.0, 0.5, 0.0) for norms in (False, True)],
}
"""Values of what differs between models. Those that go together are in one axis."""


def served_axes() -> dict[str, list[dict[str, Any]]]:
    """`AXES` without the numbers that the backend refuses."""
    return AXES | {"numbers": [value for value in AXES["numbers"] if Shape(**value).refusal is None]}


def covering_shapes() -> list[Shape]:
    """As few shapes, about, in which each value of an axis is once with each value of every other one."""
    axes = served_axes()
    left = {
        frozenset(((one, first), (other, second)))
        for one, other in combinations(axes, 2)
        for first, second in product(range(len(axes[one])), range(len(axes[other])))
    }
    shapes = []
    while left:
        chosen = dict(min(left, key=sorted))
        for name in [name for name in axes if name not in chosen]:
            news = [_num_in(left, (name, place), chosen) for place in range(len(axes[name]))]
            chosen[name] = news.index(max(news))
        left -= {frozenset(pair) for pair in combinations(chosen.items(), 2)}
        fields = [axes[name][place] for name, place in chosen.items()]
        shapes.append(Shape(**{key: value for each in fields for key, value in each.items()}))
    return shapes


def _num_in(left: set[frozenset[tuple[str, int]]], value: tuple[str, int], chosen: dict[str, int]) -> int:
    """How many pairs that are left a value makes with those chosen."""
    return sum(frozenset((value, one)) in left for one in chosen.items())


def meta(*sizes: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(sizes, dtype=dtype, device="meta")


def name_of(dtype: torch.dtype) -> str:
    """Without the torch."""
    return str(dtype).removeprefix("torch.")
