"""Mistral 7B (Jiang et al., 2023) and its kin: LLaMA with a sliding window."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder
from octavo.models.config import ModelConfig, WindowSize
from octavo.models.parts import DIRECTIONS, embedding_and_head, heads_of, kinds_of, norm_of, pre_norm_layers, rotary_of


class MistralForCausalLM(Decoder):
    """RMS norms, rotary positions, grouped heads that see a window, SwiGLU; no biases."""

    understands: ClassVar[Mapping[str, Any]] = {**DIRECTIONS, "sliding_window": WindowSize}

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        heads, rotary, kinds = heads_of(config), rotary_of(config, build), kinds_of(config)

        def attention(index: int) -> Attention:
            return Attention(index, config.hidden_size, heads, build, rotary=rotary, kind=kinds[index])

        embed_tokens, head = embedding_and_head(config, build)
        super().__init__(embed_tokens, pre_norm_layers(config, build, attention), norm_of(config, build), head)
