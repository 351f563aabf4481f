"""Layers as a model's config describes them, for the architectures' files to put together."""

from collections.abc import Callable

from octavo.layers.attention import Attention, Heads
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import PreNormLayer
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.layers.feed_forward import GatedFeedForward
from octavo.layers.norm import RMSNorm
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import ModelConfig


def heads_of(config: ModelConfig) -> Heads:
    """The model's attention heads."""
    return Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)


def rotary_of(config: ModelConfig, build: ModelBuild) -> RotaryEmbedding:
    """The model's rotary table, as long as the sequences that are to be computed.

    Raises:
        ModelError: the rope scaling is of an unknown kind.
    """
    max_positions = build.max_model_len or config.max_position_embeddings
    return RotaryEmbedding(config.head_dim, max_positions, config.rope_theta, config.rope_scaling, build)


def norm_of(config: ModelConfig, build: ModelBuild) -> RMSNorm:
    """A norm of hidden states."""
    return RMSNorm(config.hidden_size, config.rms_norm_eps, build)


def embedding_and_head(
    config: ModelConfig, build: ModelBuild
) -> tuple[VocabParallelEmbedding, VocabParallelEmbedding | None]:
    """The token embedding, and the table of the head where the two are not tied."""
    size, tied = (config.vocab_size, config.hidden_size), config.tie_word_embeddings
    embed_tokens = VocabParallelEmbedding(*size, build, is_head=tied)
    return embed_tokens, None if tied else VocabParallelEmbedding(*size, build, is_head=True)


def pre_norm_layers(
    config: ModelConfig, build: ModelBuild, attention: Callable[[int], Attention]
) -> list[PreNormLayer]:
    """LLaMA's stack: RMS norms before `attention(layer index)` and before a gated feed-forward."""

    def layer(index: int) -> PreNormLayer:
        feed_forward = GatedFeedForward(
            config.hidden_size, config.intermediate_size, build, bias=config.mlp_bias, activation=config.hidden_act
        )
        return PreNormLayer(attention(index), feed_forward, norm_of(config, build), norm_of(config, build))

    return [layer(index) for index in range(config.num_hidden_layers)]
