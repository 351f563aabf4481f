"""LLaMA 1 to 3.x (Touvron et al., 2023; Grattafiori et al., 2024) and models of the same shape, such as SmolLM2."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.models.config import ModelConfig
from octavo.models.parts import DIRECTIONS, embedding_and_head, heads_of, kinds_of, norm_of, pre_norm_layers, rotary_of


class LlamaForCausalLM(Decoder):
    """RMS norms, rotary positions, grouped heads, SwiGLU."""

    understands: ClassVar[Mapping[str, Any]] = DIRECTIONS

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        heads, rotary, kinds, bias = heads_of(config), rotary_of(config, build), kinds_of(config), config.attention_bias

        def attention(index: int) -> Attention:
            return Attention(
                index,
                config.hidden_size,
                heads,
                build,
                rotary=rotary,
                qkv_bias=bias,
                out_bias=bias,
                kind=kinds[index],
            )

        embed_tokens, head = embedding_and_head(config, build)
        super().__init__(embed_tokens, pre_norm_layers(config, build, attention), norm_of(config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """As they are; NVIDIA's LLaMA that sees both ways says so by its name."""
        is_bidirectional = raw["architectures"][0].startswith("LlamaBidirectional")
        return {**raw, "is_causal": False} if is_bidirectional else raw
