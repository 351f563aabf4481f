"""BERT (Devlin et al., 2018): an encoder, whose tokens see all of their row. It embeds and classifies; a head that
guesses masked tokens is left alone."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from octavo.errors import ModelError
from octavo.kernels.attention import ForwardContext
from octavo.layer_groups import Full
from octavo.layers.attention import Attention
from octavo.layers.build import ModelBuild
from octavo.layers.decoder import LanguageModel
from octavo.layers.embedding import PositionEmbedding, SegmentEmbedding, VocabParallelEmbedding
from octavo.layers.encoder import EncoderLayer
from octavo.layers.feed_forward import PlainFeedForward
from octavo.layers.head import ClassHead, EmbeddingHead
from octavo.layers.norm import LayerNorm
from octavo.layers.placement import Placements, prefixed
from octavo.models.config import ModelConfig, Positions, TokenId
from octavo.models.parts import heads_of
from octavo.pooling import PoolingKind

DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
"""Of transformers' BertConfig."""
SERVED = {"position_embedding_type": "absolute", "is_decoder": False}
"""Fields that change what is computed, and the only values of them that are served."""


class BertModel(LanguageModel):
    """Learned positions and segments, layer norms after each half of a layer, biases everywhere."""

    pooling_kind: ClassVar[PoolingKind] = "cls"
    understands: ClassVar[Mapping[str, Any]] = {
        "is_causal": bool,
        "layer_norm_eps": float,
        "type_vocab_size": Positions,
        "num_positions": Positions,
        "first_row": TokenId,
        "sep_token_id": TokenId,
    }
    base_prefix: ClassVar[str] = "bert."
    foreign_heads: ClassVar[tuple[str, ...]] = ("cls.", "lm_head.")
    unused_tensors: ClassVar[tuple[str, ...]] = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")
    class_layers: ClassVar[tuple[str, str]] = ("bert.pooler.dense", "classifier")
    """The layers of the head that scores classes."""

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """Build the modules without weights.

        Raises:
            ConfigError: heads or widths cannot be split over the tensor-parallel ranks.
        """
        super().__init__()
        extra, width, labels = config.extra, config.hidden_size, config.pooling.labels
        separator = extra.get("sep_token_id")
        self.word_embeddings = VocabParallelEmbedding(config.vocab_size, width, build)
        self.position_embeddings = PositionEmbedding(extra["num_positions"], width, build, first_row=extra["first_row"])
        self.token_type_embeddings = SegmentEmbedding(extra["type_vocab_size"], width, build, separator=separator)
        self.norm = _norm(config, build)
        self.layers = nn.ModuleList(_layer(index, config, build) for index in range(config.num_hidden_layers))
        self.lm_head = (
            ClassHead(width, len(labels), build, dense=self.class_layers[0], out=self.class_layers[1], bias=True)
            if labels
            else EmbeddingHead(build, config.pooling.dense)
        )
        self.kernels = build.kernels

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """With transformers' defaults; an encoder's states depend on what follows, whatever its config says."""
        return encoder_fields(raw, first_row=0)

    def forward(self, context: ForwardContext) -> torch.Tensor:
        """The last hidden state of every token: `[num_tokens, hidden_size]`."""
        batch, add = context.batch, self.kernels.add
        places = add(self.position_embeddings(batch.positions), self.token_type_embeddings(batch))
        hidden: torch.Tensor = self.norm(self.word_embeddings(batch.token_ids), places)[0]
        for layer in self.layers:
            hidden = layer(hidden, context)
        return hidden

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        found: Placements = {}
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            found |= prefixed(f"embeddings.{name}.", getattr(self, name).placements())
        found |= prefixed("embeddings.LayerNorm.", self.norm.placements())
        for index, layer in enumerate(cast(Iterable[EncoderLayer], self.layers)):
            found |= prefixed(f"encoder.layer.{index}.", layer.placements())
        return prefixed(self.base_prefix, found) | self.lm_head.placements()


def _norm(config: ModelConfig, build: ModelBuild) -> LayerNorm:
    return LayerNorm(config.hidden_size, config.extra["layer_norm_eps"], build)


def _layer(index: int, config: ModelConfig, build: ModelBuild) -> EncoderLayer:
    width, inner, kind = config.hidden_size, config.intermediate_size, Full(is_causal=False)
    attention = Attention(index, width, heads_of(config), build, qkv_bias=True, out_bias=True, kind=kind)
    feed_forward = PlainFeedForward(width, inner, build, activation=config.hidden_act, bias=True)
    return EncoderLayer(attention, feed_forward, _norm(config, build), _norm(config, build))


def encoder_fields(raw: dict[str, Any], first_row: int) -> dict[str, Any]:
    """The fields of an encoder's config under the names of `parse_config` and of `BertModel`.

    Args:
        first_row: of the positions' table, that of position 0.

    Raises:
        ModelError: a field asks for what is not computed.
    """
    for name, served in SERVED.items():
        if raw.get(name) not in (None, served):
            raise ModelError(f"the model's config asks for {name}={raw[name]!r:.80}, which Octavo's encoders do not do")
    fields = {**DEFAULTS, **raw}
    num_positions = fields["max_position_embeddings"] - first_row
    own = {"first_row": first_row, "num_positions": num_positions, "max_position_embeddings": num_positions}
    return fields | own | {"is_causal": False}
