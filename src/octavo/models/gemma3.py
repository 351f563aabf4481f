"""Gemma 3's text models (Gemma Team, 2025): most layers see a window, and both halves of a layer have a norm on each
side."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from octavo.kernels.attention import ForwardContext
from octavo.layer_groups import LayerKind
from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.layers.feed_forward import GatedFeedForward
from octavo.layers.norm import RMSNorm
from octavo.layers.placement import Placements, prefixed
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import ModelConfig, Positive, WindowSize
from octavo.models.parts import DIRECTIONS, embedding_and_head, heads_of, kinds_of, rotary_of

NORM_OFFSET = 1.0
"""Checkpoints keep a norm's weight less one."""


class Gemma3ForCausalLM(Decoder):
    """RMS norms, of heads too; grouped heads; a rotary base for layers that see a window and one for the others."""

    understands: ClassVar[Mapping[str, Any]] = {
        **DIRECTIONS,
        "sliding_window": WindowSize,
        "layer_types": list[str],
        "rope_local_base_freq": Positive,
        "query_pre_attn_scalar": Positive,
    }

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling or the type of a layer is of an unknown kind.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        far = rotary_of(config, build)
        near = rotary_of(config, build, local_theta=config.extra["rope_local_base_freq"])
        layers = [
            Gemma3Layer(index, config, kind, far if kind.most_seen is None else near, build)
            for index, kind in enumerate(kinds_of(config))
        ]
        # Rounded as transformers does.
        scale = torch.tensor(config.hidden_size**0.5, dtype=build.dtype).item()
        embed_tokens, head = embedding_and_head(config, build, scale=scale)
        super().__init__(embed_tokens, layers, _norm(config.hidden_size, config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """With the defaults of transformers' Gemma3TextConfig, from either of its spellings of rotary positions."""
        fields = {**DEFAULTS, **raw}
        rope = fields.pop("rope_parameters") or {}
        near = rope.get("sliding_attention") or {}
        if near.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters of sliding_attention are of kind {near['rope_type']!r:.80}, not default")
        near_theta = float(near.get("rope_theta", fields["rope_local_base_freq"]))
        if fields.get("use_bidirectional_attention"):
            fields["sliding_window"] = fields["sliding_window"] // 2 + 1  # of either side; configs have both together
        pattern = fields["sliding_window_pattern"]
        kinds = [
            "sliding_attention" if (index + 1) % pattern else "full_attention"
            for index in range(fields["num_hidden_layers"])
        ]
        return fields | {
            "rope_parameters": rope.get("full_attention"),
            "rope_local_base_freq": near_theta,
            "layer_types": fields["layer_types"] or kinds,
            "hidden_act": fields.pop("hidden_activation"),
            "query_pre_attn_scalar": float(fields["query_pre_attn_scalar"]),
        }


DEFAULTS: dict[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "layer_types": None,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_parameters": None,
}


class Gemma3Layer(nn.Module):
    """Attention and feed-forward, each between two norms; the residual passes by both."""

    def __init__(
        self, index: int, config: ModelConfig, kind: LayerKind, rotary: RotaryEmbedding, build: ModelBuild
    ) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.input_layernorm = _norm(hidden_size, config, build)
        self.self_attn = Attention(
            index,
            hidden_size,
            heads_of(config),
            build,
            rotary=rotary,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
            scale=config.extra["query_pre_attn_scalar"] ** -0.5,
            kind=kind,
            head_norms=(_norm(config.head_dim, config, build), _norm(config.head_dim, config, build)),
        )
        self.post_attention_layernorm = _norm(hidden_size, config, build)
        self.pre_feedforward_layernorm = _norm(hidden_size, config, build)
        self.mlp = GatedFeedForward(hidden_size, config.intermediate_size, build, activation=config.hidden_act)
        self.post_feedforward_layernorm = _norm(hidden_size, config, build)

    def forward(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, context: ForwardContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, hidden_size]` -> (the feed-forward's normalised output, the residual to add to it)."""
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden, _ = self.post_attention_layernorm(self.self_attn(hidden, context))
        hidden, residual = self.pre_feedforward_layernorm(hidden, residual)
        hidden, _ = self.post_feedforward_layernorm(self.mlp(hidden))
        return hidden, residual

    def placements(self) -> Placements:
        """By the names below `model.layers.<index>.`."""
        return {
            **prefixed("input_layernorm.", self.input_layernorm.placements()),
            **prefixed("self_attn.", self.self_attn.placements()),
            **prefixed("post_attention_layernorm.", self.post_attention_layernorm.placements()),
            **prefixed("pre_feedforward_layernorm.", self.pre_feedforward_layernorm.placements()),
            **prefixed("mlp.", self.mlp.placements()),
            **prefixed("post_feedforward_layernorm.", self.post_feedforward_layernorm.placements()),
        }


def _norm(size: int, config: ModelConfig, build: ModelBuild) -> RMSNorm:
    return RMSNorm(size, config.rms_norm_eps, build, offset=NORM_OFFSET)
