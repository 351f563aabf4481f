"""Qwen 3 (Yang et al., 2025), its dense models: LLaMA with norms of each query and key head."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.layers.norm import RMSNorm
from octavo.models.config import ModelConfig
from octavo.models.parts import WINDOWS, embedding_and_head, heads_of, kinds_of, norm_of, pre_norm_layers, rotary_of


class Qwen3ForCausalLM(Decoder):
    """RMS norms, also of heads, rotary positions, grouped heads, SwiGLU."""

    understands: ClassVar[Mapping[str, Any]] = WINDOWS

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind, or the layers' types are.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        heads, rotary, kinds = heads_of(config), rotary_of(config, build), kinds_of(config)

        def head_norm() -> RMSNorm:
            return RMSNorm(config.head_dim, config.rms_norm_eps, build)

        def attention(index: int) -> Attention:
            return Attention(
                index,
                config.hidden_size,
                heads,
                build,
                rotary=rotary,
                qkv_bias=config.attention_bias,
                out_bias=config.attention_bias,
                kind=kinds[index],
                head_norms=(head_norm(), head_norm()),
            )

        embed_tokens, head = embedding_and_head(config, build)
        super().__init__(embed_tokens, pre_norm_layers(config, build, attention), norm_of(config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """A window is used where `use_sliding_window` says so, from layer `max_window_layers` on."""
        return {"head_dim": 128, "use_sliding_window": False, "max_window_layers": 28, **raw}
