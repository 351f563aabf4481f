"""Which class runs which architecture, and whether it does all that a model's config asks for."""

from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

from torch import nn

from octavo.errors import ModelError
from octavo.kernels.interface import Model
from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placement
from octavo.models.config import ModelConfig
from octavo.models.llama import LlamaForCausalLM


class CausalLM(Model, Protocol):
    """What every architecture's class offers the model runner and the loader."""

    understands: ClassVar[frozenset[str]]
    """The names in `ModelConfig.extra` that the class computes."""
    ignored_tensors: tuple[str, ...]
    """Ends of the names of tensors that checkpoints carry and the model has no use for."""

    def placements(self) -> dict[str, Placement]:
        """Where each tensor of a checkpoint goes, by its Hugging Face name."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As in torch.nn.Module."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As in torch.nn.Module."""
        ...


_ARCHITECTURES: dict[str, type[LlamaForCausalLM]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
}


def known_architectures() -> list[str]:
    """The architectures that can be run, as config.json names them."""
    return sorted(_ARCHITECTURES)


def check_supported(config: ModelConfig) -> None:
    """Make sure that the model would be computed as its config asks.

    Raises:
        ModelError: the architecture is unknown (the known ones are named), or a field asks for what it does not do.
    """
    _class_of(config)


def build_model(config: ModelConfig, build: ModelBuild) -> CausalLM:
    """The model without weights.

    Raises:
        ModelError: as `check_supported`.
        ConfigError: the model cannot be split over the tensor-parallel ranks.
    """
    return _class_of(config)(config, build)


def _class_of(config: ModelConfig) -> Callable[[ModelConfig, ModelBuild], CausalLM]:
    model_class = _ARCHITECTURES.get(config.architecture)
    if model_class is None:
        known = ", ".join(known_architectures())
        raise ModelError(f"unknown architecture {config.architecture!r}; known ones: {known}")
    asked = {name: value for name, value in config.extra.items() if name not in model_class.understands}
    if asked:
        fields = ", ".join(f"{name}={value!r:.80}" for name, value in asked.items())
        raise ModelError(f"the model's config asks for {fields}, which Octavo's {config.architecture} does not do")
    return model_class
