"""A decoder: an embedding, a stack of layers, a norm and a head."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import nn

from octavo.kernels.attention import ForwardContext
from octavo.layer_groups import LayerKind
from octavo.layers.attention import Attention
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.layers.head import Head
from octavo.layers.norm import Norm, RMSNorm
from octavo.layers.placement import Placements, prefixed
from octavo.pooling import PoolingKind


class Layer(Protocol):
    """One of a decoder's layers; a torch module.

    The residual travels beside the hidden states, so that each norm can add it on its way (`Kernels.rms_norm`).
    """

    def __call__(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, hidden_size]` -> (the layer's output, the residual to add to it)."""
        ...

    def placements(self) -> Placements:
        """By the names below the layer's."""
        ...


class FeedForward(Protocol):
    """The half of a layer that looks at one token; a torch module."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        ...

    def placements(self) -> Placements:
        """By the names below the feed-forward's."""
        ...


class LanguageModel(nn.Module):
    """What architectures share: how their checkpoints are read, unless they say otherwise, and the head."""

    understands: ClassVar[Mapping[str, Any]] = {}
    base_prefix: ClassVar[str] = "model."
    transposed_tensors: ClassVar[tuple[str, ...]] = ()
    foreign_heads: ClassVar[tuple[str, ...]] = ()
    unused_tensors: ClassVar[tuple[str, ...]] = ()
    """Ends of the names of tensors that checkpoints carry and the model has no use for, beside a tied head's."""

    lm_head: Head
    pooling_kind: ClassVar[PoolingKind] = "last"
    """How a prompt's states become one vector, unless the checkpoint says otherwise."""

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """As they are, where the names and defaults are those of `parse_config`."""
        return raw

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Ends of the names of tensors that checkpoints carry and the model has no use for."""
        return (*self.unused_tensors, *self.lm_head.unused_tensors)

    @property
    def has_head(self) -> bool:
        """Whether it gives logits. A model that does not gives hidden states only."""
        return self.lm_head.gives_logits

    def layer_kinds(self) -> list[LayerKind]:
        """What each layer reads of a sequence's KV, from the first layer."""
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        return [attention.kind for attention in sorted(attentions, key=lambda attention: attention.index)]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of last hidden states, as `forward` gives them: `[n, width]` -> `[n, vocab_size]`, in the model's dtype."""
        return self.lm_head.logits(hidden)

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """Embeddings from pooled states: `[n, hidden_size]` -> `[n, width]`."""
        return self.lm_head.embed(pooled)

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """Scores of the classes of a model that has some, from pooled states: `[n, width]` -> `[n, num_labels]`."""
        return self.lm_head.classify(pooled)


class Decoder(LanguageModel):
    """LLaMA's shape over the paged cache. An architecture is a subclass, whose constructor makes the parts.

    Use it under `torch.inference_mode()`.
    """

    unused_tensors: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)

    def __init__(
        self,
        embed_tokens: VocabParallelEmbedding,
        layers: Iterable[Layer],
        norm: RMSNorm,
        head: Head,
    ) -> None:
        """Join the parts."""
        super().__init__()
        self.embed_tokens = embed_tokens
        self.layers = nn.ModuleList(cast(Iterable[nn.Module], layers))
        self.norm = norm
        self.lm_head = head

    def forward(self, context: ForwardContext) -> torch.Tensor:
        """The last hidden state of every token, normalised: `[num_tokens, hidden_size]`."""
        hidden: torch.Tensor = self.embed_tokens(context.batch.token_ids)
        residual: torch.Tensor | None = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, context)
        normalised: torch.Tensor = self.norm(hidden, residual)[0]
        return normalised

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        found = prefixed("model.embed_tokens.", self.embed_tokens.placements())
        for index, layer in enumerate(cast(Iterable[Layer], self.layers)):
            found |= prefixed(f"model.layers.{index}.", layer.placements())
        found |= prefixed("model.norm.", self.norm.placements())
        return found | self.lm_head.placements()


class PreNormLayer(nn.Module):
    """Attention and feed-forward, each behind a norm (Xiong et al., 2020): LLaMA's layer and that of its kin.

    `feed_forward_name` is what checkpoints call that half.
    """

    def __init__(
        self,
        attention: Attention,
        feed_forward: FeedForward,
        input_norm: Norm,
        post_attention_norm: Norm,
        *,
        feed_forward_name: str = "mlp",
    ) -> None:
        super().__init__()
        self.feed_forward_name = feed_forward_name
        self.input_layernorm = input_norm
        self.self_attn = attention
        self.post_attention_layernorm = post_attention_norm
        self.mlp = feed_forward

    def forward(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, hidden_size]` -> (the feed-forward's output, the residual to add to it)."""
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, context)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual

    def placements(self) -> Placements:
        """By the names below `model.layers.<index>.`."""
        return {
            **prefixed("input_layernorm.", self.input_layernorm.placements()),
            **prefixed("self_attn.", self.self_attn.placements()),
            **prefixed("post_attention_layernorm.", self.post_attention_layernorm.placements()),
            **prefixed(f"{self.feed_forward_name}.", self.mlp.placements()),
        }
