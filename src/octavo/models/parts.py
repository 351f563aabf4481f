"""Layers as a model's config describes them, for the architectures' files to put together."""

from collections.abc import Callable
from typing import Any

from octavo.errors import ModelError
from octavo.layer_groups import Full, LayerKind, Window
from octavo.layers.attention import Attention, Heads
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import PreNormLayer
from octavo.layers.embedding import VocabParallelEmbedding
from octavo.layers.feed_forward import GatedFeedForward
from octavo.layers.head import ClassHead, EmbeddingHead, Head, ParallelLMHead
from octavo.layers.norm import RMSNorm
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import ModelConfig, WindowSize

DIRECTIONS: dict[str, Any] = {"is_causal": bool, "use_bidirectional_attention": bool}
"""The fields that say whether tokens see what follows them, for an architecture that does as its pooling says."""
WINDOWS: dict[str, Any] = {
    **DIRECTIONS,
    "sliding_window": WindowSize,
    "max_window_layers": WindowSize,
    "layer_types": list[str],
}
"""The fields that `kinds_of` reads, for an architecture to understand."""


def heads_of(config: ModelConfig) -> Heads:
    """The model's attention heads."""
    return Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)


def rotary_of(config: ModelConfig, build: ModelBuild, *, local_theta: float | None = None) -> RotaryEmbedding:
    """The model's rotary table, as long as the sequences that are to be computed.

    `local_theta` is the base of layers that see a window, where it is their own: their frequencies are not scaled.

    Raises:
        ModelError: the rope scaling is of an unknown kind, or the rotated part of a head is odd.
    """
    fraction = config.extra.get("partial_rotary_factor", 1.0)
    width = int(config.head_dim * fraction)
    if width == 0 or width % 2:
        raise ModelError(
            f"the model's config has partial_rotary_factor={fraction}: of a head's {config.head_dim} dimensions it "
            f"rotates {width}, which must be an even number"
        )
    max_positions = build.max_model_len or config.max_position_embeddings
    theta, scaling = (config.rope_theta, config.rope_scaling) if local_theta is None else (local_theta, None)
    if scaling is not None:
        scaling = {"max_position_embeddings": config.max_position_embeddings, **scaling}
    return RotaryEmbedding(width, max_positions, theta, scaling, build)


def kinds_of(config: ModelConfig) -> list[LayerKind]:
    """The kind of each layer: it sees `sliding_window` tokens where `layer_types` says so or, without types, from layer
    `max_window_layers` on.

    Raises:
        ModelError: there are not as many types as layers, one is unknown, or there is no window for them.
    """
    extra, count, is_causal = config.extra, config.num_hidden_layers, config.pooling.is_causal
    size, types = extra.get("sliding_window") or None, extra.get("layer_types")
    full: LayerKind = Full(is_causal)
    sliding: LayerKind = full if size is None else Window(size, is_causal)
    if types is None:
        first = extra.get("max_window_layers", 0)
        return [sliding if index >= first else full for index in range(count)]
    unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
    if len(types) != count:
        raise ModelError(f"the model's config has {len(types)} layer_types, and num_hidden_layers is {count}")
    if unknown:
        kinds = ", ".join(unknown)
        raise ModelError(f"the model's config has {kinds} in layer_types, which Octavo's {config.architecture} lacks")
    if size is None and "sliding_attention" in types:
        raise ModelError("the model's config has sliding_attention in layer_types, and no sliding_window")
    return [sliding if name == "sliding_attention" else full for name in types]


def norm_of(config: ModelConfig, build: ModelBuild) -> RMSNorm:
    """A norm of hidden states."""
    return RMSNorm(config.hidden_size, config.rms_norm_eps, build)


def embedding_and_head(
    config: ModelConfig, build: ModelBuild, *, scale: float = 1.0, width: int | None = None
) -> tuple[VocabParallelEmbedding, Head]:
    """The token embedding, its vectors as wide as the hidden states or `width` and multiplied by `scale`, and the head:
    tied to it or with a table of its own, or what a model has that does not generate."""
    size = config.vocab_size, width or config.hidden_size
    is_tied = config.generates and config.tie_word_embeddings
    embed_tokens = VocabParallelEmbedding(*size, build, is_head=is_tied, scale=scale)
    if config.generates:
        own = None if is_tied else VocabParallelEmbedding(*size, build, is_head=True)
        return embed_tokens, ParallelLMHead(embed_tokens, own)
    labels = config.pooling.labels
    if labels:
        return embed_tokens, ClassHead(config.hidden_size, len(labels), build, out="score", bias=False)
    return embed_tokens, EmbeddingHead(build, config.pooling.dense)


def pre_norm_layers(
    config: ModelConfig, build: ModelBuild, attention: Callable[[int], Attention], *, fused: str | None = None
) -> list[PreNormLayer]:
    """LLaMA's stack: RMS norms before `attention(layer index)` and before a gated feed-forward, with gate and up in one
    tensor named `fused`, or each in its own."""
    width, inner, bias, activation = config.hidden_size, config.intermediate_size, config.mlp_bias, config.hidden_act

    def layer(index: int) -> PreNormLayer:
        feed_forward = GatedFeedForward(width, inner, build, bias=bias, activation=activation, fused=fused)
        return PreNormLayer(attention(index), feed_forward, norm_of(config, build), norm_of(config, build))

    return [layer(index) for index in range(config.num_hidden_layers)]
