"""What a model's authors recommend for sampling: the defaults of fields that a request leaves out. Torch-free."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from octavo.checkpoints.json_files import read_optional_object
from octavo.checkpoints.locate import locate
from octavo.config import EngineConfig
from octavo.errors import ConfigError, ModelError, OctavoError, RequestError
from octavo.sampling_params import SamplingParams

FILE = "generation_config.json"
NOBODYS = ("none", "vllm")
"""Values of `--generation-config` for the engine's own defaults; the second is what vLLM calls them."""
_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
"""The fields that count, as transformers names them. As in vLLM, `do_sample` is not among them."""
_WHOLE = ("top_k", "max_new_tokens")
_GGUF_FIELDS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """The defaults of a model, and a bound for its answers."""

    values: dict[str, float] = field(default_factory=dict)
    """By the fields of `SamplingParams`; `max_tokens` is not among them."""
    max_tokens: int | None = None
    """No answer is longer, whatever a request says."""
    source: str = ""
    """Where they come from."""

    def applied(self, params: SamplingParams, given: Collection[str]) -> SamplingParams:
        """The parameters of a request with the defaults in place of what it leaves out.

        Args:
            params: the request's.
            given: the names of the fields that it brings.

        Raises:
            RequestError: the request wants more tokens than an answer may have.
        """
        values: dict[str, Any] = {name: value for name, value in self.values.items() if name not in given}
        if self.max_tokens is not None and (params.max_tokens is None or params.max_tokens > self.max_tokens):
            if params.min_tokens > self.max_tokens:
                raise RequestError(
                    f"min_tokens={params.min_tokens} is over the {self.max_tokens} tokens that an answer of this model "
                    f"may have (max_new_tokens in {self.source}): lower it"
                )
            values["max_tokens"] = self.max_tokens
        return msgspec.structs.replace(params, **values) if values else params

    def __str__(self) -> str:
        named = [f"{name} {value:g}" for name, value in self.values.items()]
        bound = [] if self.max_tokens is None else [f"at most {self.max_tokens} tokens"]
        return f"{', '.join(named + bound)} (from {self.source})" if named or bound else "the engine's own"


def generation_folder(config: EngineConfig) -> Path | None:
    """The folder that `--generation-config` names in place of the model's own.

    Raises:
        ConfigError: there is no generation_config.json in it.
    """
    if config.generation_config == "auto" or config.generation_config in NOBODYS:
        return None
    folder = Path(config.generation_config).expanduser()
    if not (folder / FILE).is_file():
        raise ConfigError(
            f"--generation-config {config.generation_config} is no folder with a {FILE}, and neither auto nor none"
        )
    return folder


def read_sampling_defaults(config: EngineConfig) -> SamplingDefaults:
    """The defaults that the flags ask for, of a model whose files are here.

    Raises:
        ConfigError: a flag's value is not usable.
        ModelError: the model's own file cannot be read, or holds what no request may.
    """
    folder = generation_folder(config)
    fields: dict[str, Any] = {}
    source = ""
    if folder is not None:
        fields, source = read_optional_object(folder / FILE), str(folder / FILE)
    elif config.generation_config not in NOBODYS:
        fields, source = _models_own(config.model)
    known = {name: value for name, value in fields.items() if name in _FIELDS and value is not None}
    defaults = _checked(known, source, ModelError, "--generation-config none does without it")
    if config.override_generation_config is None:
        return defaults
    over = _overriding(config.override_generation_config)
    _checked(over, "--override-generation-config", ConfigError, "change it")
    sources = [source] if known else []
    return _checked(known | over, " and ".join([*sources, "--override-generation-config"]), ConfigError, "change it")


def _models_own(model: str) -> tuple[dict[str, Any], str]:
    checkpoint = locate(model)
    if checkpoint.format == "folder":
        return read_optional_object(checkpoint.path / FILE), FILE
    from octavo.checkpoints.gguf_header import read_header  # the gguf package is for GGUF files only

    metadata = read_header(*checkpoint.pieces).metadata
    return {name: metadata[key] for key, name in _GGUF_FIELDS.items() if key in metadata}, "the GGUF file"


def _overriding(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--override-generation-config is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.keys() - set(_FIELDS):
        raise ConfigError(
            f"--override-generation-config must be a JSON object with any of {', '.join(_FIELDS)}, got {text:.200}"
        )
    return {name: value for name, value in fields.items() if value is not None}


def _checked(fields: dict[str, Any], source: str, error_type: type[OctavoError], way_out: str) -> SamplingDefaults:
    """The fields, held to what a request may ask for."""
    try:
        values: dict[str, Any] = {name: _number(name, value) for name, value in fields.items()}
        max_tokens = values.pop("max_new_tokens", None)
        SamplingParams(**values, max_tokens=max_tokens)
    except (msgspec.ValidationError, RequestError) as error:
        raise error_type(f"{source} has sampling defaults that cannot be used, {fields}: {error}; {way_out}") from error
    return SamplingDefaults(values, max_tokens, source)


def _number(name: str, value: Any) -> float:
    """JSON has one kind of numbers: 50.0 is whole."""
    if name in _WHOLE:
        return msgspec.convert(int(value) if isinstance(value, float) and value.is_integer() else value, int)
    return msgspec.convert(value, float)
