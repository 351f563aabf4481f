"""Phi-3 and Phi-4-mini (Abdin et al., 2024)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.models.config import Fraction, ModelConfig, WindowSize
from octavo.models.parts import embedding_and_head, heads_of, kinds_of, norm_of, pre_norm_layers, rotary_of

LONGROPE = ("longrope", "su", "yarn")
"""Names of its one kind of rope scaling, the last two from its first versions."""


class Phi3ForCausalLM(Decoder):
    """LLaMA with fused projections, sliding windows, partly rotated heads and positions scaled by LongRoPE."""

    understands: ClassVar[Mapping[str, Any]] = {"partial_rotary_factor": Fraction, "sliding_window": WindowSize}

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        heads, rotary, kinds = heads_of(config), rotary_of(config, build), kinds_of(config)

        def attention(index: int) -> Attention:
            kind = kinds[index]
            return Attention(index, config.hidden_size, heads, build, rotary=rotary, kind=kind, fused="qkv_proj")

        embed_tokens, head = embedding_and_head(config, build)
        layers = pre_norm_layers(config, build, attention, fused="gate_up_proj")
        super().__init__(embed_tokens, layers, norm_of(config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """The names of `parse_config`, with Phi-3's defaults."""
        rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
        if rope.get("rope_type", rope.get("type")) in LONGROPE:
            original = raw.get("original_max_position_embeddings", 4096)
            rope = {"original_max_position_embeddings": original, **rope, "rope_type": "longrope"}
        own = {"rope_scaling": None, "rope_parameters": rope}
        return {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, **raw, **own}
