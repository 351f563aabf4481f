"""Drives a model over a paged cache as the model runner does: rows with block tables, any number of tokens a step."""

import random
from pathlib import Path

import numpy as np
import torch

from octavo.checkpoints.locate import locate
from octavo.config import Quantization
from octavo.kernels.interface import CacheShape, Kernels, RaggedBatch
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import load_model, read_config

BLOCK_SIZE = 4


class RaggedModel:
    """A loaded model and its rows. Blocks are handed out in shuffled order: a row's are scattered over the pool."""

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
    ) -> None:
        self.checkpoint = locate(str(model))
        self.config = read_config(self.checkpoint)
        tensor_parallel = tensor_parallel or TensorParallel()
        self.kernels = kernels or ReferenceKernels()
        build = ModelBuild(dtype, torch.device("cpu"), self.kernels, tensor_parallel, quantization, max_model_len)
        self.model = load_model(self.config, build, self.checkpoint)
        kv_heads = tensor_parallel.shard(self.config.num_key_value_heads, "KV heads", replicate=True)
        shape = CacheShape(
            num_blocks,
            self.config.num_hidden_layers,
            BLOCK_SIZE,
            len(kv_heads),
            self.config.head_dim,
            cache_dtype or dtype,
        )
        self.forward = self.kernels.bind(self.model, self.kernels.allocate_cache(shape, build.device))
        self.free_blocks = random.Random(0).sample(range(num_blocks), num_blocks)
        self.tables: dict[str, list[int]] = {}
        self.lengths: dict[str, int] = {}

    def step(self, new_tokens: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        """Compute each row's new tokens in one ragged batch: logits `[num_new, vocab_size]` by row."""
        batch = self._batch(new_tokens)
        with torch.inference_mode():
            self.forward.run(batch)
            logits = self.forward.logits(np.arange(len(batch.token_ids))).clone()
        by_row = torch.split_with_sizes(logits, [len(tokens) for tokens in new_tokens.values()])
        return dict(zip(new_tokens, by_row, strict=True))

    def _batch(self, new_tokens: dict[str, list[int]]) -> RaggedBatch:
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for row, tokens in new_tokens.items():
            start = self.lengths.get(row, 0)
            self.lengths[row] = start + len(tokens)
            table = self.tables.setdefault(row, [])
            while len(table) * BLOCK_SIZE < self.lengths[row]:
                table.append(self.free_blocks.pop())
            own = range(start, self.lengths[row])
            positions += own
            slots += [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in own]
            starts.append(len(positions))
        longest = max(len(self.tables[row]) for row in new_tokens)
        return RaggedBatch(
            token_ids=torch.tensor([token for tokens in new_tokens.values() for token in tokens]),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts),
            context_lens=torch.tensor([self.lengths[row] for row in new_tokens]),
            block_tables=torch.tensor([self.tables[r] + [0] * (longest - len(self.tables[r])) for r in new_tokens]),
        )
