"""Qwen 2 and 2.5 (Yang et al., 2024): LLaMA with biases on queries, keys and values, and windows in some layers."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.models.config import ModelConfig
from octavo.models.parts import WINDOWS, embedding_and_head, heads_of, kinds_of, norm_of, pre_norm_layers, rotary_of


class Qwen2ForCausalLM(Decoder):
    """RMS norms, rotary positions, grouped heads with biases, SwiGLU."""

    understands: ClassVar[Mapping[str, Any]] = WINDOWS

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind, or the layers' types are.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        heads, rotary, kinds = heads_of(config), rotary_of(config, build), kinds_of(config)

        def attention(index: int) -> Attention:
            return Attention(index, config.hidden_size, heads, build, rotary=rotary, qkv_bias=True, kind=kinds[index])

        embed_tokens, head = embedding_and_head(config, build)
        super().__init__(embed_tokens, pre_norm_layers(config, build, attention), norm_of(config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """A window is used where `use_sliding_window` says so, from layer `max_window_layers` on."""
        return {"use_sliding_window": False, "max_window_layers": 28, **raw}
