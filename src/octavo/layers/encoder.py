"""An encoder's layer."""

import torch
from torch import nn

from octavo.kernels.attention import ForwardContext
from octavo.layers.attention import Attention
from octavo.layers.feed_forward import PlainFeedForward
from octavo.layers.norm import LayerNorm
from octavo.layers.placement import Placements, prefixed

PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
"""What BERT's checkpoints call an attention's projections."""


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a norm behind it and its residual sum (Vaswani et al., 2017): BERT's
    layer."""

    def __init__(
        self, attention: Attention, feed_forward: PlainFeedForward, attention_norm: LayerNorm, output_norm: LayerNorm
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.feed_forward = feed_forward
        self.output_norm = output_norm

    def forward(self, hidden: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        hidden = self.attention_norm(self.attention(hidden, context), hidden)[0]
        normalised: torch.Tensor = self.output_norm(self.feed_forward(hidden), hidden)[0]
        return normalised

    def placements(self) -> Placements:
        """By the names below `encoder.layer.<index>.`."""
        projections = {
            f"{PROJECTIONS[name.partition('.')[0]]}.{name.partition('.')[2]}": places
            for name, places in self.attention.qkv_proj.placements().items()
        }
        return {
            **prefixed("attention.self.", projections),
            **prefixed("attention.output.dense.", self.attention.o_proj.placements()),
            **prefixed("attention.output.LayerNorm.", self.attention_norm.placements()),
            **prefixed("intermediate.dense.", self.feed_forward.up_proj.placements()),
            **prefixed("output.dense.", self.feed_forward.down_proj.placements()),
            **prefixed("output.LayerNorm.", self.output_norm.placements()),
        }
