"""Which class runs which architecture, and whether it does all that a model's config asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
import torch
from torch import nn

from octavo.checkpoints.sentence_files import SentenceFiles
from octavo.errors import ModelError
from octavo.kernels.interface import Model
from octavo.layer_groups import LayerKind
from octavo.layers.build import ModelBuild
from octavo.layers.forms import take_forms
from octavo.layers.placement import Placements
from octavo.models.config import ModelConfig, parse_config
from octavo.models.pooling_fields import read_pooling
from octavo.pooling import PoolingKind


class CausalLM(Model, Protocol):
    """What every architecture's class offers the model runner and the loader."""

    understands: ClassVar[Mapping[str, Any]]
    """The fields of config.json, beside those of `ModelConfig`, that the class computes, each with its type as msgspec
    checks it: they are in the config's `extra`."""
    base_prefix: ClassVar[str]
    """What the names of all tensors but the head's begin with, unless they were saved without a head."""
    transposed_tensors: ClassVar[tuple[str, ...]]
    """Ends of the names of matrices that Hugging Face's checkpoints keep as `[inputs, outputs]`."""
    foreign_heads: ClassVar[tuple[str, ...]]
    """Beginnings of the names of heads that checkpoints carry and the model has no use for."""
    pooling_kind: ClassVar[PoolingKind]
    """How a prompt's states become one vector, unless the checkpoint says otherwise."""

    def __init__(self, config: ModelConfig, build: ModelBuild) -> None:
        """The modules, without weights."""
        ...

    @property
    def ignored_tensors(self) -> tuple[str, ...]:
        """Ends of the names of tensors that checkpoints carry and the model has no use for."""
        ...

    @staticmethod
    def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
        """A config.json's fields under the names that `parse_config` and the class know, absent ones with the defaults
        of transformers. May raise whatever a wrong type of a field leads to."""
        ...

    def layer_kinds(self) -> list[LayerKind]:
        """What each layer reads of a sequence's KV, from the first layer."""
        ...

    def placements(self) -> Placements:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        ...

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """Embeddings from pooled states: `[n, hidden_size]` -> `[n, width]`."""
        ...

    def classify(self, pooled: torch.Tensor) -> torch.Tensor:
        """The classes' scores of a model that has some, from pooled states: `[n, width]` -> `[n, num_labels]`."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As in torch.nn.Module."""
        ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As in torch.nn.Module."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As in torch.nn.Module."""
        ...


_MODULES = {
    "GPT2LMHeadModel": "gpt2",
    "Gemma3ForCausalLM": "gemma3",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "OPTForCausalLM": "opt",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""By a class's name, which is also that in config.json, its module in this package: imported when it is asked for."""

_ENCODERS = {"BertModel": "bert", "RobertaModel": "roberta"}
"""The same, of classes that have no head that gives logits."""

_WITHOUT_HEAD = {
    **dict.fromkeys(("BertModel", "BertForMaskedLM", "BertForSequenceClassification"), "BertModel"),
    **dict.fromkeys(("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification"), "RobertaModel"),
    **dict.fromkeys(
        ("XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification"), "RobertaModel"
    ),
    **dict.fromkeys(("LlamaModel", "LlamaBidirectionalModel", "LlamaForSequenceClassification"), "LlamaForCausalLM"),
    **dict.fromkeys(("MistralModel", "MistralForSequenceClassification"), "MistralForCausalLM"),
    **dict.fromkeys(("Qwen2Model", "Qwen2ForSequenceClassification"), "Qwen2ForCausalLM"),
    **dict.fromkeys(("Qwen3Model", "Qwen3ForSequenceClassification"), "Qwen3ForCausalLM"),
    **dict.fromkeys(("Gemma3TextModel", "Gemma3TextForSequenceClassification"), "Gemma3ForCausalLM"),
}
"""By architectures that generate nothing, the class that computes their hidden states. Those called
`ForSequenceClassification` have a head that scores classes."""


def known_architectures() -> list[str]:
    """The architectures that can be run, as config.json names them."""
    return sorted({*_MODULES, *_WITHOUT_HEAD})


def generating_architectures() -> list[str]:
    """Those of them that have a head which gives logits."""
    return sorted(_MODULES)


def translated(raw: dict[str, Any], source: str) -> dict[str, Any]:
    """The fields of a config.json under the names that `config_of` takes, whatever its architecture calls them.

    Args:
        raw: the parsed file.
        source: where it came from, for errors.

    Raises:
        ModelError: the architecture is missing or unknown, or a field is of a type that it cannot be.
    """
    model_class = _class_named(raw, source)
    try:
        return model_class.config_fields(raw)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelError(f"{source} does not describe a {model_class.__name__}: {error!r:.200}") from error


def config_of(
    fields: dict[str, Any],
    source: str,
    generation: dict[str, Any] | None = None,
    sentence_files: SentenceFiles | None = None,
) -> ModelConfig:
    """The config of a model, checked to be one that can be run. The first arguments are those of `parse_config`.

    Args:
        sentence_files: what stands beside the config, where the checkpoint was made to embed. Such a model generates
            nothing, whatever its architecture has; its longest text is bounded.

    Raises:
        ModelError: as `parse_config`, `read_pooling` and `check_supported`.
    """
    model_class = _class_named(fields, source)
    config = parse_config(fields, source, generation, model_class.understands)
    has_classes = config.architecture in _WITHOUT_HEAD and config.architecture.endswith("ForSequenceClassification")
    generates = config.architecture in _MODULES and sentence_files is None
    kind = model_class.pooling_kind
    pooling = read_pooling(fields, source, kind, sentence_files, generates=generates, has_classes=has_classes)
    longest = config.max_position_embeddings
    if sentence_files is not None and sentence_files.max_tokens and config.rope_scaling is None:
        longest = min(longest, sentence_files.max_tokens)
    config = replace(config, pooling=pooling, generates=generates, max_position_embeddings=longest)
    check_supported(config)
    return config


def check_supported(config: ModelConfig) -> None:
    """Make sure that the model would be computed as its config asks.

    Raises:
        ModelError: the architecture is unknown (the known ones are named), or a field asks for what it does not do.
    """
    _class_of(config)


def build_model(config: ModelConfig, build: ModelBuild) -> CausalLM:
    """The model without weights, its matrices in the forms that the build says.

    Raises:
        ModelError: as `check_supported`.
        ConfigError: the model cannot be split over the tensor-parallel ranks.
    """
    model = _class_of(config)(config, build)
    take_forms(model.modules(), model.placements(), build.forms)
    return model


class _Named(msgspec.Struct):
    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]


def _class_named(fields: dict[str, Any], source: str) -> type[CausalLM]:
    try:
        return _class_by_name(msgspec.convert(fields, _Named).architectures[0])
    except msgspec.ValidationError as error:
        raise ModelError(f"{source} does not describe a model: {error}") from error


def _class_by_name(architecture: str) -> type[CausalLM]:
    name = _WITHOUT_HEAD.get(architecture, architecture)
    module = (_MODULES | _ENCODERS).get(name)
    if module is None:
        known = ", ".join(known_architectures())
        raise ModelError(f"unknown architecture {architecture!r}; known ones: {known}")
    model_class: type[CausalLM] = getattr(import_module(f"octavo.models.{module}"), name)
    return model_class


def _class_of(config: ModelConfig) -> type[CausalLM]:
    model_class = _class_by_name(config.architecture)
    asked = {name: value for name, value in config.extra.items() if name not in model_class.understands}
    if asked:
        fields = ", ".join(f"{name}={value!r:.80}" for name, value in asked.items())
        raise ModelError(f"the model's config asks for {fields}, which Octavo's {config.architecture} does not do")
    if config.generates and not config.pooling.is_causal:
        raise ModelError(
            f"the tokens of this {config.architecture} see what follows them (is_causal, use_bidirectional_attention), "
            "so it cannot generate: to embed with it, name it as a model without a head in config.json's architectures"
        )
    return model_class
