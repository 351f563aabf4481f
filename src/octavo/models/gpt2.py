"""GPT-2 (Radford et al., 2019)."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from octavo.kernels.attention import ForwardContext
from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import LanguageModel, PreNormLayer
from octavo.layers.embedding import PositionEmbedding
from octavo.layers.feed_forward import PlainFeedForward
from octavo.layers.norm import LayerNorm
from octavo.layers.placement import Placements, prefixed
from octavo.models.config import ModelConfig, renamed
from octavo.models.parts import embedding_and_head, heads_of

NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
}
"""GPT-2's names of what other configs name otherwise."""


class GPT2LMHeadModel(LanguageModel):
    """Learned positions, layer norms before attention and feed-forward, biases everywhere."""

    understands: ClassVar[Mapping[str, Any]] = {
        "layer_norm_epsilon": float,
        "scale_attn_weights": bool,
        "scale_attn_by_inverse_layer_idx": bool,
    }
    base_prefix: ClassVar[str] = "transformer."
    transposed_tensors: ClassVar[tuple[str, ...]] = ("c_attn.weight", "c_fc.weight", "c_proj.weight")
    unused_tensors: ClassVar[tuple[str, ...]] = (".attn.bias", ".attn.masked_bias")

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        super().__init__()
        self.wte, self.lm_head = embedding_and_head(config, build)
        self.wpe = PositionEmbedding(config.max_position_embeddings, config.hidden_size, build)
        self.h = nn.ModuleList(_block(index, config, build) for index in range(config.num_hidden_layers))
        self.ln_f = _norm(config, build)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """The names of `parse_config`, with GPT-2's defaults."""
        fields = renamed(raw, NAMES, tie_word_embeddings=True, hidden_act="gelu_new", max_position_embeddings=1024)
        if fields.get("intermediate_size") is None:
            fields["intermediate_size"] = 4 * fields["hidden_size"]
        return fields

    def forward(self, context: ForwardContext) -> torch.Tensor:
        """The last hidden state of every token, normalised: `[num_tokens, hidden_size]`."""
        hidden: torch.Tensor = self.wte(context.batch.token_ids)
        residual: torch.Tensor = self.wpe(context.batch.positions)  # which the first layer's norm adds
        for block in self.h:
            hidden, residual = block(hidden, residual, context)
        normalised: torch.Tensor = self.ln_f(hidden, residual)[0]
        return normalised

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        found = prefixed("transformer.wte.", self.wte.placements())
        found |= prefixed("transformer.wpe.", self.wpe.placements())
        for index, block in enumerate(cast(Iterable[PreNormLayer], self.h)):
            found |= prefixed(f"transformer.h.{index}.", _block_placements(block))
        found |= prefixed("transformer.ln_f.", self.ln_f.placements())
        return found | self.lm_head.placements()


def _norm(config: ModelConfig, build: ModelBuild) -> LayerNorm:
    return LayerNorm(config.hidden_size, config.extra.get("layer_norm_epsilon", 1e-5), build)


def _block(index: int, config: ModelConfig, build: ModelBuild) -> PreNormLayer:
    heads = heads_of(config)
    scale = config.head_dim**-0.5 if config.extra.get("scale_attn_weights", True) else 1.0
    if config.extra.get("scale_attn_by_inverse_layer_idx", False):
        scale /= index + 1
    attention = Attention(
        index, config.hidden_size, heads, build, qkv_bias=True, out_bias=True, scale=scale, fused="c_attn"
    )
    feed_forward = PlainFeedForward(
        config.hidden_size, config.intermediate_size, build, activation=config.hidden_act, bias=True
    )
    return PreNormLayer(attention, feed_forward, _norm(config, build), _norm(config, build))


def _block_placements(block: PreNormLayer) -> Placements:
    """By the names below `transformer.h.<index>.`."""
    feed_forward = cast(PlainFeedForward, block.mlp)
    return {
        **prefixed("ln_1.", block.input_layernorm.placements()),
        **prefixed("attn.", block.self_attn.qkv_proj.placements()),
        **prefixed("attn.c_proj.", block.self_attn.o_proj.placements()),
        **prefixed("ln_2.", block.post_attention_layernorm.placements()),
        **prefixed("mlp.c_fc.", feed_forward.up_proj.placements()),
        **prefixed("mlp.c_proj.", feed_forward.down_proj.placements()),
    }
