"""Drives a model over a paged cache as the model runner does: rows with block tables, any number of tokens a step."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from octavo.checkpoints.locate import locate
from octavo.config import Quantization
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import group_layers
from octavo.layers.build import ModelBuild
from octavo.layers.head import EmbeddingHead
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import load_model, read_config, read_forms

BLOCK_SIZE = 4
NO_BLOCK = -1


class RaggedModel:
    """A loaded model and its rows. Blocks are handed out in shuffled order: a row's are scattered over the pool.

    A block that lies wholly behind a window is overwritten with NaN and given to whoever needs one next.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        tensor_parallel: TensorParallel | None = None,
        num_blocks: int = 64,
        kernels: Kernels | None = None,
        quantization: Quantization = "none",
        cache_dtype: torch.dtype | None = None,
        max_model_len: int | None = None,
        has_head: bool = True,
    ) -> None:
        self.checkpoint = locate(str(model))
        self.config = read_config(self.checkpoint)
        tensor_parallel = tensor_parallel or TensorParallel()
        self.kernels = kernels or ReferenceKernels()
        build = ModelBuild(dtype, torch.device("cpu"), self.kernels, tensor_parallel, quantization, max_model_len)
        build = replace(build, forms=read_forms(self.config, build, self.checkpoint, "auto"))
        self.model = load_model(self.config, build, self.checkpoint)
        if not has_head:
            self.model.lm_head = EmbeddingHead(build)  # type: ignore[attr-defined]
        kv_heads = tensor_parallel.shard(self.config.num_key_value_heads, "KV heads", replicate=True)
        self.layer_groups = group_layers(self.model.layer_kinds())
        num_blocks *= len(self.layer_groups.groups)
        shape = CacheShape(
            num_blocks,
            self.layer_groups,
            BLOCK_SIZE,
            len(kv_heads),
            self.config.head_dim,
            cache_dtype or dtype,
        )
        self.cache = self.kernels.allocate_cache(shape, build.device)
        self.forward = self.kernels.bind(self.model, self.cache)
        self.free_blocks = random.Random(0).sample(range(num_blocks), num_blocks)
        self.tables: dict[str, list[list[int]]] = {}
        """Of each row and layer group; NO_BLOCK where one was given up."""
        self.lengths: dict[str, int] = {}

    def step(self, new_tokens: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        """Compute each row's new tokens in one ragged batch: logits `[num_new, vocab_size]` by row."""
        with torch.inference_mode():
            self.run(new_tokens)
            logits = self.forward.logits(np.arange(sum(map(len, new_tokens.values())))).clone()
        by_row = torch.split_with_sizes(logits, [len(tokens) for tokens in new_tokens.values()])
        return dict(zip(new_tokens, by_row, strict=True))

    def run(self, new_tokens: dict[str, list[int]]) -> None:
        """Compute each row's new tokens, and no logits."""
        with torch.inference_mode():
            self.forward.run(self._batch(new_tokens))

    def _batch(self, new_tokens: dict[str, list[int]]) -> RaggedBatch:
        positions: list[int] = []
        slots: list[list[int]] = [[] for _ in self.layer_groups.groups]
        starts = [0]
        for row, tokens in new_tokens.items():
            own = range(self.lengths.get(row, 0), self.lengths.get(row, 0) + len(tokens))
            tables = self.tables.setdefault(row, [[] for _ in self.layer_groups.groups])
            for group, table in enumerate(tables):
                self._give_up(table, self.layer_groups.kinds[group].first_seen(own.start) // BLOCK_SIZE)
                while len(table) * BLOCK_SIZE < own.stop:
                    table.append(self.free_blocks.pop())
                slots[group] += [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in own]
            self.lengths[row] = own.stop
            positions += own
            starts.append(len(positions))
        return RaggedBatch(
            token_ids=torch.tensor([token for tokens in new_tokens.values() for token in tokens]),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts),
            context_lens=torch.tensor([self.lengths[row] for row in new_tokens]),
            tables=torch.arange(len(new_tokens)),
            block_tables=self._block_tables(list(new_tokens)),
        )

    def _give_up(self, table: list[int], num_blocks: int) -> None:
        given_up = [block for block in table[:num_blocks] if block != NO_BLOCK]
        self.cache.records[given_up] = 0xFF  # NaN in every dtype, and in scales
        self.free_blocks += given_up
        table[:num_blocks] = [NO_BLOCK] * len(table[:num_blocks])

    def _block_tables(self, rows: list[str]) -> torch.Tensor:
        """`[num_groups, num_rows, max_blocks]`; block 0 where there is none."""
        longest = max(len(table) for row in rows for table in self.tables[row])
        by_group = zip(*(self.tables[row] for row in rows), strict=True)
        padded = [[table + [NO_BLOCK] * (longest - len(table)) for table in tables] for tables in by_group]
        return torch.tensor(padded).clamp(min=0)
