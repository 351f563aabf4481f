"""Mixtral (Jiang et al., 2024): Mistral with experts for feed-forwards."""

from collections.abc import Mapping
from typing import Any, ClassVar

from octavo.errors import ModelError
from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import Decoder, PreNormLayer
from octavo.layers.experts import Experts
from octavo.models.config import ModelConfig, NumExperts, WindowSize
from octavo.models.parts import embedding_and_head, heads_of, kinds_of, norm_of, rotary_of


class MixtralForCausalLM(Decoder):
    """RMS norms, rotary positions, grouped heads, a few experts for each token."""

    understands: ClassVar[Mapping[str, Any]] = {
        "sliding_window": WindowSize,
        "num_local_experts": NumExperts,
        "num_experts_per_tok": NumExperts,
    }

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ModelError: the rope scaling is of an unknown kind, or a token has more experts than there are.
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        hidden_size, kinds = config.hidden_size, kinds_of(config)
        heads, rotary = heads_of(config), rotary_of(config, build)
        num_experts, num_chosen = _num_experts(config)

        def layer(index: int) -> PreNormLayer:
            attention = Attention(index, hidden_size, heads, build, rotary=rotary, kind=kinds[index])
            experts = Experts(
                hidden_size, config.intermediate_size, num_experts, num_chosen, build, activation=config.hidden_act
            )
            norms = (norm_of(config, build), norm_of(config, build))
            return PreNormLayer(attention, experts, *norms, feed_forward_name="block_sparse_moe")

        embed_tokens, head = embedding_and_head(config, build)
        layers = [layer(index) for index in range(config.num_hidden_layers)]
        super().__init__(embed_tokens, layers, norm_of(config, build), head)

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """With the defaults of transformers' MixtralConfig."""
        return {
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            **raw,
        }


def _num_experts(config: ModelConfig) -> tuple[int, int]:
    """How many there are, and how many a token goes through."""
    num_experts, num_chosen = config.extra["num_local_experts"], config.extra["num_experts_per_tok"]
    if num_chosen > num_experts:
        raise ModelError(
            f"the model's config has num_experts_per_tok={num_chosen}, more than num_local_experts={num_experts}"
        )
    return num_experts, num_chosen
