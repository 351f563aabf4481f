"""What a model looks like: the facts that other parts need, read from config.json or a GGUF's metadata."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import torch

from octavo.checkpoints.packing import Packing, read_packing
from octavo.errors import ModelError
from octavo.kernels.operations import ActivationKind
from octavo.models.rope_fields import MAX_POSITIONS, read_rope
from octavo.pooling import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model's shape, the same whichever file it came from. Names are those of Hugging Face's config.json.

    `extra` holds the fields that the architecture declares to understand, and those that ask for a computation beyond
    the ordinary (`ORDINARY` below), which the registry refuses where the architecture does not understand them.
    """

    architecture: str
    """The config's class name, as in the registry: `LlamaForCausalLM`."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """The longest sequence the model was made for, in tokens; with YaRN, what its factor makes of the original."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    """None, or `rope_type` and what that kind needs; never of kind `default`."""
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: ActivationKind = "silu"
    """The feed-forward layers' activation."""
    checkpoint_dtype: torch.dtype = torch.bfloat16
    """What `dtype="auto"` means: a safetensors checkpoint's own, bfloat16 for a GGUF."""
    eos_token_ids: tuple[int, ...] = ()
    generates: bool = True
    """Whether the model has a head that scores the next token. One without embeds or classifies prompts."""
    pooling: Pooling = field(default_factory=Pooling)
    """How a vector is made of a prompt. A decoder's checkpoint that says nothing of it has the last token's."""
    packing: Packing | None = None
    """How the checkpoint's matrices are packed to few bits; a GGUF says it with each."""
    extra: dict[str, Any] = field(default_factory=dict)


DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
"""The dtypes that a model may be stored or run in, by the names used in config.json and for `--dtype`."""

ACTIVATIONS: dict[str, ActivationKind] = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Activations by the names that transformers has for them."""

ORDINARY: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("silu", "swish"),
    "sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "query_pre_attn_scalar": (),
    "partial_rotary_factor": (1,),
    "attention_multiplier": (0,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "use_bidirectional_attention": (False,),
    "is_causal": (True,),
}
"""Fields that change what a model computes, each with the values (beside null) that leave it as in LLaMA."""

# The limits are far over any model and keep sizes, and products of them, within what torch can count.
Layers = Annotated[int, msgspec.Meta(ge=1, le=2**12)]
Heads = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
Width = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Positions = Annotated[int, msgspec.Meta(ge=1, le=MAX_POSITIONS)]
WindowSize = Annotated[int, msgspec.Meta(ge=0, le=2**27)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
NumExperts = Annotated[int, msgspec.Meta(ge=1, le=2**12)]
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Fields(msgspec.Struct, kw_only=True):
    """The fields read from a config.json, as transformers 4 and 5 write them. Absent ones have LLaMA's defaults."""

    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]
    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Heads
    num_key_value_heads: Heads | None = None
    head_dim: Heads | None = None
    max_position_embeddings: Positions = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: Annotated[float, msgspec.Meta(gt=0)] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: Positions | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    dtype: str | None = None
    torch_dtype: str | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    layer_types: list[str] | None = None


def renamed(raw: dict[str, Any], names: Mapping[str, str], **defaults: Any) -> dict[str, Any]:
    """A config.json's fields under other names.

    Args:
        raw: the parsed file.
        names: what its architecture calls a field, and what `parse_config` does.
        defaults: of absent fields, under the names of `parse_config`.
    """
    return {**defaults, **raw, **{name: raw[own] for own, name in names.items() if own in raw}}


def parse_config(
    raw: dict[str, Any],
    source: str,
    generation: dict[str, Any] | None = None,
    understands: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Read a config.json, or a GGUF's metadata under the same names.

    Args:
        raw: the parsed file.
        source: where it came from, for errors.
        generation: the parsed generation_config.json beside it: its end-of-sequence ids are added.
        understands: fields that go into `extra` whatever their value, unless it is null, and the type of each.

    Raises:
        ModelError: a field is missing or not usable; the message names it and `source`.
    """
    try:
        fields = msgspec.convert(raw, _Fields)
        more_eos = msgspec.convert((generation or {}).get("eos_token_id"), TokenId | list[TokenId] | None)
    except msgspec.ValidationError as error:
        raise ModelError(f"{source} does not describe a model: {error}") from error
    num_kv_heads = fields.num_key_value_heads or fields.num_attention_heads
    rope = read_rope(raw, fields.max_position_embeddings, source)
    config = ModelConfig(
        architecture=fields.architectures[0],
        vocab_size=fields.vocab_size,
        hidden_size=fields.hidden_size,
        intermediate_size=fields.intermediate_size,
        num_hidden_layers=fields.num_hidden_layers,
        num_attention_heads=fields.num_attention_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=fields.head_dim or fields.hidden_size // fields.num_attention_heads,
        max_position_embeddings=rope.max_positions,
        rms_norm_eps=fields.rms_norm_eps,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        tie_word_embeddings=fields.tie_word_embeddings,
        attention_bias=fields.attention_bias,
        mlp_bias=fields.mlp_bias,
        hidden_act=_activation(fields.hidden_act, source),
        checkpoint_dtype=_dtype(fields.dtype or fields.torch_dtype or "bfloat16", source),
        eos_token_ids=tuple(dict.fromkeys(_ids(fields.eos_token_id) + _ids(more_eos))),
        packing=read_packing(raw, source),
        extra=_extra(raw, understands or {}, fields.layer_types or [], source),
    )
    _check_heads(config, source)
    return config


def _dtype(name: str, source: str) -> torch.dtype:
    dtype = DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise ModelError(f"{source}: weights of dtype {name!r} are not read; known dtypes: {', '.join(DTYPES)}")
    return dtype


def _activation(name: str, source: str) -> ActivationKind:
    kind = ACTIVATIONS.get(name)
    if kind is None:
        raise ModelError(f"{source}: hidden_act {name!r} is not known; known activations: {', '.join(ACTIVATIONS)}")
    return kind


def _ids(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else ids


def _extra(raw: dict[str, Any], understands: Mapping[str, Any], layer_types: list[str], source: str) -> dict[str, Any]:
    """The fields that ask for more than the ordinary, and those that the architecture understands."""
    asked = {**raw, **{name: value for name, value in (raw.get("rope_parameters") or {}).items() if name in ORDINARY}}
    own = {name: kind for name, kind in understands.items() if asked.get(name) is not None}
    extra = {name: _typed(name, asked[name], kind, source) for name, kind in own.items()}
    for name, ordinary in ORDINARY.items():
        if name not in own and asked.get(name) is not None and asked[name] not in ordinary:
            extra[name] = asked[name]
    if raw.get("use_sliding_window") is False:
        extra.pop("sliding_window", None)
    if set(layer_types) - {"full_attention"}:
        extra.setdefault("layer_types", layer_types)
    return extra


def _typed(name: str, value: Any, kind: Any, source: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ModelError(f"{source}: {name} is not usable: {error}") from error


def _check_heads(config: ModelConfig, source: str) -> None:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        raise ModelError(
            f"{source}: num_attention_heads ({heads}) is not a multiple of num_key_value_heads ({kv_heads})"
        )
    if config.head_dim == 0 or config.head_dim % 2:
        raise ModelError(f"{source}: head_dim must be even for rotary positions, got {config.head_dim}")
