"""OPT (Zhang et al., 2022), its 350M variant with norms after a layer's halves, and Galactica (Taylor et al., 2022)."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from octavo.kernels.attention import ForwardContext
from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import LanguageModel
from octavo.layers.embedding import PositionEmbedding
from octavo.layers.feed_forward import PlainFeedForward
from octavo.layers.linear import ReplicatedLinear
from octavo.layers.norm import LayerNorm
from octavo.layers.placement import Placements, prefixed
from octavo.models.config import ModelConfig, Width, renamed
from octavo.models.parts import embedding_and_head, heads_of

UNUSED_POSITIONS = 2
"""Rows of the checkpoint's table before that of position 0."""
EPSILON = 1e-5


class OPTForCausalLM(LanguageModel):
    """Learned positions, layer norms before or after each half of a layer, embeddings that may be narrower."""

    understands: ClassVar[Mapping[str, Any]] = {
        "do_layer_norm_before": bool,
        "_remove_final_layer_norm": bool,
        "word_embed_proj_dim": Width,
        "enable_bias": bool,
        "layer_norm_elementwise_affine": bool,
    }

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        super().__init__()
        asked, width = config.extra, config.hidden_size
        narrow = asked.get("word_embed_proj_dim", width)
        norms_first = asked.get("do_layer_norm_before", True)
        self.embed_tokens, self.lm_head = embedding_and_head(config, build, width=narrow)
        self.embed_positions = PositionEmbedding(
            config.max_position_embeddings, width, build, first_row=UNUSED_POSITIONS
        )
        self.project_in = None if narrow == width else ReplicatedLinear(narrow, width, build)
        self.project_out = None if narrow == width else ReplicatedLinear(width, narrow, build)
        self.layers = nn.ModuleList(
            DecoderLayer(index, config, build, norms_first=norms_first) for index in range(config.num_hidden_layers)
        )
        has_final_norm = norms_first and not asked.get("_remove_final_layer_norm", False)
        self.final_layer_norm = _norm(config, build) if has_final_norm else None
        self.kernels = build.kernels

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """The names of `parse_config`, with OPT's defaults."""
        names = {"ffn_dim": "intermediate_size", "activation_function": "hidden_act"}
        return renamed(raw, names, tie_word_embeddings=True, hidden_act="relu")

    def forward(self, context: ForwardContext) -> torch.Tensor:
        """The last hidden state of every token: `[num_tokens, word_embed_proj_dim]`."""
        hidden: torch.Tensor = self.embed_tokens(context.batch.token_ids)
        if self.project_in is not None:
            hidden = self.project_in(hidden)
        residual: torch.Tensor | None = self.embed_positions(context.batch.positions)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, context)
        if self.final_layer_norm is not None:
            hidden = self.final_layer_norm(hidden, residual)[0]
        elif residual is not None:
            hidden = self.kernels.add(hidden, residual)
        return hidden if self.project_out is None else cast(torch.Tensor, self.project_out(hidden))

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        found: Placements = {}
        for name in ("embed_tokens", "embed_positions", "project_in", "project_out", "final_layer_norm"):
            module = getattr(self, name)
            if module is not None:
                found |= prefixed(f"model.decoder.{name}.", module.placements())
        for index, layer in enumerate(cast(Iterable[DecoderLayer], self.layers)):
            found |= prefixed(f"model.decoder.layers.{index}.", layer.placements())
        return found | self.lm_head.placements()


class DecoderLayer(nn.Module):
    """Attention and feed-forward; a norm before each half, or in the 350M variant after it and its residual sum."""

    def __init__(self, index: int, config: ModelConfig, build: ModelBuild, *, norms_first: bool) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.extra.get("enable_bias", True)
        self.self_attn = Attention(index, width, heads_of(config), build, qkv_bias=bias, out_bias=bias)
        self.self_attn_layer_norm = _norm(config, build)
        self.feed_forward = PlainFeedForward(
            width, config.intermediate_size, build, activation=config.hidden_act, bias=bias
        )
        self.final_layer_norm = _norm(config, build)
        self.norms_first = norms_first

    def forward(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[num_tokens, hidden_size]` -> (the layer's output, the residual that is to be added to it, if any)."""
        if self.norms_first:
            hidden, residual = self.self_attn_layer_norm(hidden, residual)
            hidden = self.self_attn(hidden, context)
            hidden, residual = self.final_layer_norm(hidden, residual)
            return self.feed_forward(hidden), residual
        if residual is not None:
            hidden = self.self_attn.kernels.add(hidden, residual)
        hidden = self.self_attn_layer_norm(self.self_attn(hidden, context), hidden)[0]
        return self.final_layer_norm(self.feed_forward(hidden), hidden)[0], None

    def placements(self) -> Placements:
        """By the names below `model.decoder.layers.<index>.`."""
        return {
            **prefixed("self_attn.", self.self_attn.qkv_proj.placements()),
            **prefixed("self_attn.out_proj.", self.self_attn.o_proj.placements()),
            **prefixed("self_attn_layer_norm.", self.self_attn_layer_norm.placements()),
            **prefixed("fc1.", self.feed_forward.up_proj.placements()),
            **prefixed("fc2.", self.feed_forward.down_proj.placements()),
            **prefixed("final_layer_norm.", self.final_layer_norm.placements()),
        }


def _norm(config: ModelConfig, build: ModelBuild) -> LayerNorm:
    affine = config.extra.get("layer_norm_elementwise_affine", True)
    return LayerNorm(config.hidden_size, EPSILON, build, affine=affine)
