"""What a model's steps take, in operations and bytes, from its config: nothing is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import mul
from typing import NamedTuple

import torch

from octavo.execution.plan import Plan
from octavo.kernels.cache import CacheShape
from octavo.layer_groups import LayerGroups
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import PositionEmbedding, SegmentEmbedding, VocabParallelEmbedding
from octavo.layers.experts import Experts
from octavo.layers.head import ParallelLMHead
from octavo.models.config import ModelConfig
from octavo.models.registry import CausalLM, build_model

TABLES = (VocabParallelEmbedding, PositionEmbedding, SegmentEmbedding)
"""Modules of which a step looks up some rows. A head's table is counted by itself."""


class StepAmounts(NamedTuple):
    """How much a step does beside its products, whatever the machine; one rank's part where there are several."""

    num_tokens: int
    num_rows: int
    num_sampled: int
    """Tokens that logits are computed for."""
    attention_ops: float
    """A multiplication and an addition are two."""
    context_bytes: float
    """Keys and values that queries read, each once a row."""
    activations: float
    """Numbers that pass from operation to operation: tokens times layers times width."""
    reduced_bytes: float
    """That each rank sends to add up results; 0 on one."""
    num_reductions: int
    copied_bytes: float
    moved_bytes: float
    """Out to the swap space, and back."""


@dataclass(frozen=True, slots=True)
class ModelWork:
    """One rank's part of a model, counted from its modules' shapes."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    num_ranks: int
    layer_weights: int
    """That every token is multiplied with."""
    expert_weights: int
    """Of all experts."""
    chosen_share: float
    """Of the experts, those that a token takes."""
    head_weights: int
    query_width: int
    token_bytes: int
    """Keys and values of one token in one layer."""
    layer_groups: LayerGroups
    activation_bytes: int
    """Of one number that passes from operation to operation."""
    block_bytes: int
    """Of one KV block, on all ranks together."""

    def of(self, plan: Plan) -> StepAmounts:
        """What a plan's step does."""
        starts, num_new = plan.starts, plan.num_new
        num_tokens, num_rows = sum(num_new), len(plan.rows)
        num_sampled = len(plan.sampled_rows) + plan.num_drafts
        contexts = pairs = 0
        for group in self.layer_groups.groups:
            most_seen = group.kind.most_seen
            if most_seen is None:
                read = sum(starts) + num_tokens
                seen = sum(map(mul, num_new, starts)) + (sum(map(mul, num_new, num_new)) + num_tokens) // 2
            else:
                read = sum(min(start, most_seen) + new for start, new in zip(starts, num_new, strict=True))
                seen = sum(
                    new * min(start + (new + 1) // 2, most_seen) for start, new in zip(starts, num_new, strict=True)
                )
            contexts += len(group.layers) * read
            pairs += len(group.layers) * seen
        num_reductions = 2 * self.num_layers + 1 if self.num_ranks > 1 and num_tokens else 0
        sent = 2 * (self.num_ranks - 1) / self.num_ranks * num_tokens * self.hidden_size * self.activation_bytes
        return StepAmounts(
            num_tokens=num_tokens,
            num_rows=num_rows,
            num_sampled=num_sampled,
            attention_ops=4.0 * self.query_width * pairs,
            context_bytes=float(self.token_bytes * contexts),
            activations=float(num_tokens * self.num_layers * self.hidden_size),
            reduced_bytes=sent * num_reductions,
            num_reductions=num_reductions,
            copied_bytes=float(len(plan.copies) * self.block_bytes // self.num_ranks),
            moved_bytes=float((len(plan.swap_out) + len(plan.swap_in)) * self.block_bytes // self.num_ranks),
        )


def count_work(config: ModelConfig, build: ModelBuild, cache: CacheShape) -> ModelWork:
    """Count a model's weights.

    Args:
        build: how it is built, on whatever device.
        cache: a rank's part of the KV cache.
    """
    plain = replace(build.on_meta(), quantization="none", forms={})
    model = build_model(config, plain)
    layer_weights, expert_weights, chosen_share = sum(each.numel() for each in _matrices(model)), 0, 1.0
    for module in model.modules():
        if isinstance(module, Experts):
            chosen_share = module.num_chosen / len(module.experts)
            expert_weights += sum(each.numel() for each in module.experts.parameters())
    head = next((module.table for module in model.modules() if isinstance(module, ParallelLMHead)), None)
    num_ranks = build.tensor_parallel.size
    return ModelWork(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_ranks=num_ranks,
        layer_weights=layer_weights - expert_weights,
        expert_weights=expert_weights,
        chosen_share=chosen_share,
        head_weights=0 if head is None else len(head.rows) * head.shape[1],
        query_width=config.num_attention_heads * config.head_dim // num_ranks,
        token_bytes=cache.block_bytes // (cache.block_size * cache.num_layers),
        layer_groups=cache.layer_groups,
        activation_bytes=build.dtype.itemsize,
        block_bytes=cache.block_bytes * num_ranks,
    )


def _matrices(model: CausalLM) -> Iterator[torch.Tensor]:
    """The parameters that products of a layer read, in whatever form: all but vectors and what is looked up by
    number."""
    tables = [module for module in model.modules() if isinstance(module, TABLES)]
    looked_up = {id(parameter) for table in tables for parameter in table.parameters()}
    for _, parameter in model.named_parameters():
        if id(parameter) not in looked_up and parameter.ndim > 1:
            yield parameter
