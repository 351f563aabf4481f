"""A GGUF file's metadata as the config.json of the model that it was converted from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf import MODEL_ARCH
from gguf.quants import dequantize

from octavo.checkpoints.gguf_ends import end_token_ids
from octavo.checkpoints.gguf_header import GGUFHeader
from octavo.errors import ModelError

Fields = dict[str, Any]

ROTARY_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that belong to the config: what divides the frequencies of rotary positions."""

_FIELDS = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
}
_GPT2_FIELDS = {
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "block_count": "n_layer",
    "attention.head_count": "n_head",
    "context_length": "n_positions",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_YARN_FIELDS = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attn_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_ext_factor": "extrapolation_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
    "rope.scaling.yarn_log_multiplier": "mscale_all_dim",
}
"""YaRN's fields of config.json; `attn_factor`, which multiplies the amplitude that follows from the others, is
llama.cpp's alone."""
_GEMMA3_LOCAL_THETA = 10000.0
_GEMMA3_PERIOD = 6
"""Every sixth layer of a Gemma 3 attends to everything, unless the file says otherwise."""
_GEMMA3_27B_LAYERS = 62
"""The one size that scales queries by the hidden size over the heads; a file doesn't say so (llama.cpp tells it so)."""


@dataclass(frozen=True, slots=True)
class GGUFArchitecture:
    """How files of one `general.architecture` differ from the Hugging Face checkpoints that they were made from."""

    kind: MODEL_ARCH
    """The gguf package's name for it: it knows the tensors' names."""
    refine: Callable[[Fields, Fields, GGUFHeader], str]
    """Completes the fields, given the metadata without the architecture's prefix; the model's class in config.json."""
    names: dict[str, str]
    """config.json's names by those of the metadata."""
    interleaves_heads: bool = False
    """Query and key rows are in the order that llama.cpp rotates LLaMA's: neighbours in place of a head's halves."""
    norms_have_one_added: bool = False


def architecture_of(header: GGUFHeader) -> GGUFArchitecture:
    """How the file is to be read.

    Raises:
        ModelError: its architecture is not one that is read from GGUF files.
    """
    name = header.metadata.get("general.architecture")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ModelError(f"{header.path}: unknown GGUF architecture {name!r}; known ones: {known}")
    return _ARCHITECTURES[name]


def config_fields(header: GGUFHeader) -> Fields:
    """The metadata as the config.json of the model.

    Raises:
        ModelError: the architecture is not one that is read from GGUF files, or the metadata are inconsistent.
    """
    metadata, tensors = header.metadata, header.tensors
    architecture = architecture_of(header)
    prefix = f"{metadata['general.architecture']}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items()}
    fields = {name: own[key] for key, name in architecture.names.items() if key in own}
    fields["vocab_size"] = own.get("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    fields["tie_word_embeddings"] = "output.weight" not in tensors
    fields["attention_bias"] = "blk.0.attn_q.bias" in tensors
    fields["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    fields["eos_token_id"] = end_token_ids(metadata)
    try:
        fields["architectures"] = [architecture.refine(fields, own, header)]
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(f"{header.path} has metadata that are missing or not usable: {error!r:.200}") from error
    return fields


def _llama(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    """LLaMA, and Mistral and Mixtral, whose files go by the same name."""
    _add_rotary(fields, own, header)
    _check_rotary_width(fields, own, header)
    if fields.get("num_local_experts"):
        return "MixtralForCausalLM"
    return "MistralForCausalLM" if fields.get("sliding_window") else "LlamaForCausalLM"


def _qwen2(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    _add_rotary(fields, own, header)
    return "Qwen2ForCausalLM"


def _qwen3(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    _add_rotary(fields, own, header)
    return "Qwen3ForCausalLM"


def _gemma3(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    layers, heads = fields["num_hidden_layers"], fields["num_attention_heads"]
    period = own.get("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    is_local = period if isinstance(period, list) else [(index + 1) % period != 0 for index in range(layers)]
    fields["layer_types"] = ["sliding_attention" if local else "full_attention" for local in is_local]
    fields["query_pre_attn_scalar"] = (
        fields["hidden_size"] // heads if layers == _GEMMA3_27B_LAYERS else fields["head_dim"]
    )
    fields["hidden_activation"] = "gelu_pytorch_tanh"
    _add_rotary(fields, own, header)
    scaled = fields.pop("rope_scaling") or {"rope_type": "default"}
    fields["rope_parameters"] = {
        "full_attention": {**scaled, "rope_theta": fields.pop("rope_theta")},
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": own.get("rope.freq_base_swa", _GEMMA3_LOCAL_THETA),
        },
    }
    return "Gemma3ForCausalLM"


def _phi3(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    width = fields.get("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    fields["partial_rotary_factor"] = own.get("rope.dimension_count", width) / width
    fields["sliding_window"] = fields.get("sliding_window") or None
    fields["original_max_position_embeddings"] = own.get(
        "rope.scaling.original_context_length", fields["max_position_embeddings"]
    )
    _, short, long = ROTARY_FACTORS
    if long not in header.tensors:
        _add_rotary(fields, own, header)
        return "Phi3ForCausalLM"
    fields["rope_scaling"] = {
        "rope_type": "longrope",
        "short_factor": _factors(header, short),
        "long_factor": _factors(header, long),
    }
    if "rope.scaling.attn_factor" in own:
        fields["rope_scaling"]["attention_factor"] = own["rope.scaling.attn_factor"]
    return "Phi3ForCausalLM"


def _gpt2(fields: Fields, own: Fields, header: GGUFHeader) -> str:
    fields["activation_function"] = "gelu_new"
    return "GPT2LMHeadModel"


def _add_rotary(fields: Fields, own: Fields, header: GGUFHeader) -> None:
    """The scaling of rotary frequencies under `rope_scaling`, None where there is none."""
    kind = own.get("rope.scaling.type", "linear" if "rope.scale_linear" in own else "none")
    fields["rope_scaling"] = None
    if kind != "none":
        factor = own.get("rope.scaling.factor", own.get("rope.scale_linear"))
        further = {name: own[key] for key, name in _YARN_FIELDS.items() if key in own} if kind == "yarn" else {}
        fields["rope_scaling"] = {"rope_type": kind, "factor": factor, **further}
        if kind == "yarn" and "mscale_all_dim" in further:
            fields["rope_scaling"]["mscale"] = 1.0
    elif ROTARY_FACTORS[0] in header.tensors:
        fields["rope_scaling"] = {"rope_type": "frequency_factors", "factors": _factors(header, ROTARY_FACTORS[0])}


def _factors(header: GGUFHeader, name: str) -> list[float]:
    info = header.tensors[name]
    factors: list[float] = dequantize(info.read_rows(range(1))[0], info.quantization).tolist()
    return factors


def _check_rotary_width(fields: Fields, own: Fields, header: GGUFHeader) -> None:
    """Llama files give the rotated dimensions of a head: all of them, or the model is not a LLaMA."""
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        width = fields.get("head_dim", hidden // heads)
        for key in ("rope.dimension_count", "attention.value_length"):
            if own.get(key, width) != width:
                raise ModelError(f"{header.path}: {key} is {own[key]}, other than the head's {width} dimensions")


_ARCHITECTURES = {
    "llama": GGUFArchitecture(MODEL_ARCH.LLAMA, _llama, _FIELDS, interleaves_heads=True),
    "qwen2": GGUFArchitecture(MODEL_ARCH.QWEN2, _qwen2, _FIELDS),
    "qwen3": GGUFArchitecture(MODEL_ARCH.QWEN3, _qwen3, _FIELDS),
    "gemma3": GGUFArchitecture(MODEL_ARCH.GEMMA3, _gemma3, _FIELDS, norms_have_one_added=True),
    "phi3": GGUFArchitecture(MODEL_ARCH.PHI3, _phi3, _FIELDS),
    "gpt2": GGUFArchitecture(MODEL_ARCH.GPT2, _gpt2, _GPT2_FIELDS),
}
"""By the value of `general.architecture`."""
