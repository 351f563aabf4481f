"""LLaMA 1 to 3.x (Touvron et al., 2023; Grattafiori et al., 2024) and models of the same shape, such as SmolLM2."""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
from torch import nn

from octavo.kernels.interface import AttentionSpec, AttentionStep
from octavo.layers.build import ModelBuild
from octavo.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from octavo.layers.linear import MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.norm import RMSNorm
from octavo.layers.placement import Placements, prefixed
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import ModelConfig


class LlamaForCausalLM(nn.Module):
    """A decoder of `num_hidden_layers` layers over the paged cache. Use it under `torch.inference_mode()`."""

    understands: ClassVar[frozenset[str]] = frozenset()
    base_prefix: ClassVar[str] = "model."
    transposed_tensors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        super().__init__()
        tied = config.tie_word_embeddings
        self.ignored_tensors: tuple[str, ...] = ("rotary_emb.inv_freq", *(("lm_head.weight",) if tied else ()))
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size, build, is_head=tied)
        max_positions = build.max_model_len or config.max_position_embeddings
        rotary = RotaryEmbedding(config.head_dim, max_positions, config.rope_theta, config.rope_scaling, build)
        self.layers = nn.ModuleList(DecoderLayer(i, config, rotary, build) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, build)
        self.lm_head = ParallelLMHead(
            self.embed_tokens
            if tied
            else VocabParallelEmbedding(config.vocab_size, config.hidden_size, build, is_head=True)
        )

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """As they are: LLaMA's names are those of `parse_config`."""
        return raw

    def forward(self, step: AttentionStep) -> torch.Tensor:
        """The last hidden state of every token, normalised: `[num_tokens, hidden_size]`."""
        hidden: torch.Tensor = self.embed_tokens(step.batch.token_ids)
        residual: torch.Tensor | None = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, step)
        normalised: torch.Tensor = self.norm(hidden, residual)[0]
        return normalised

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` -> `[n, vocab_size]`, in the model's dtype."""
        logits: torch.Tensor = self.lm_head(hidden)
        return logits

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        found = prefixed("model.embed_tokens.", self.embed_tokens.placements())
        for index, layer in enumerate(cast(Iterable[DecoderLayer], self.layers)):
            found |= prefixed(f"model.layers.{index}.", layer.placements())
        found |= prefixed("model.norm.", self.norm.placements())
        if self.lm_head.table is not self.embed_tokens:
            found |= prefixed("lm_head.", self.lm_head.table.placements())
        return found


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm that first adds the residual that travels beside them."""

    def __init__(self, index: int, config: ModelConfig, rotary: RotaryEmbedding, build: ModelBuild) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, build)
        self.self_attn = Attention(index, config, rotary, build)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, build)
        self.mlp = FeedForward(config, build)

    def forward(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, step: AttentionStep
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, hidden_size]` -> (the feed-forward's output, the residual to add to it)."""
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden, step)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual

    def placements(self) -> Placements:
        """By the names below `model.layers.<index>.`."""
        return {
            **prefixed("input_layernorm.", self.input_layernorm.placements()),
            **prefixed("self_attn.", self.self_attn.qkv_proj.placements()),
            **prefixed("self_attn.o_proj.", self.self_attn.o_proj.placements()),
            **prefixed("post_attention_layernorm.", self.post_attention_layernorm.placements()),
            **prefixed("mlp.", self.mlp.gate_up_proj.placements()),
            **prefixed("mlp.down_proj.", self.mlp.down_proj.placements()),
        }


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped heads (Ainslie et al., GQA, 2023)."""

    def __init__(self, index: int, config: ModelConfig, rotary: RotaryEmbedding, build: ModelBuild) -> None:
        super().__init__()
        heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        parts = (
            Part("q_proj", heads, width),
            Part("k_proj", kv_heads, width, replicate=True),
            Part("v_proj", kv_heads, width, replicate=True),
        )
        bias = config.attention_bias
        self.qkv_proj = MergedColumnParallelLinear(config.hidden_size, parts, build, bias=bias)
        self.o_proj = RowParallelLinear(heads * width, config.hidden_size, build, bias=bias)
        self.rotary = rotary
        self.kernels = build.kernels
        self.index = index
        self.head_dim = width

    @property
    def spec(self) -> AttentionSpec:
        """This layer's attention, with the table as it is now: the loader fills it after the layers are built."""
        num_heads, num_kv_heads, _ = (len(share) for share in self.qkv_proj.shares)
        return AttentionSpec(
            self.index,
            num_heads,
            num_kv_heads,
            self.head_dim,
            scale=self.head_dim**-0.5,
            cos_sin=self.rotary.cos_sin,
        )

    def forward(self, hidden: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        attended = self.kernels.attention(self.qkv_proj(hidden), step, self.spec)
        projected: torch.Tensor = self.o_proj(attended)
        return projected


class FeedForward(nn.Module):
    """A gated feed-forward layer: SwiGLU (Shazeer, 2020), or one with another activation."""

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        parts = (Part("gate_proj", inner), Part("up_proj", inner))
        self.gate_up_proj = MergedColumnParallelLinear(hidden, parts, build, bias=bias)
        self.down_proj = RowParallelLinear(inner, hidden, build, bias=bias)
        self.activation = config.hidden_act
        self.kernels = build.kernels

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        activated = self.kernels.activation_and_mul(self.gate_up_proj(hidden), self.activation)
        projected: torch.Tensor = self.down_proj(activated)
        return projected
