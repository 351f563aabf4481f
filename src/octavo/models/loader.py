"""From a checkpoint to a model with its weights in memory, once and in the dtype it runs in."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from octavo.checkpoints.dummy import DummyTensors
from octavo.checkpoints.folder import has_weights, open_folder
from octavo.checkpoints.json_files import read_json, read_optional_object
from octavo.checkpoints.locate import Checkpoint
from octavo.checkpoints.packed import PackedTensors
from octavo.checkpoints.sentence_files import read_sentence_files
from octavo.checkpoints.source import HuggingFaceTensors, JoinedTensors, TensorSource, as_numbers
from octavo.checkpoints.special_tokens import separator_id, tokenizer_end_ids
from octavo.config import LoadFormat, Quantization
from octavo.errors import ConfigError, ModelError
from octavo.kernels.grouped import GroupedForm
from octavo.kernels.interface import Kernels
from octavo.kernels.large_pages import large_empty
from octavo.kernels.packed_weights import PackedWeights
from octavo.layers.build import ModelBuild
from octavo.layers.forms import usable_forms
from octavo.layers.placement import Placement, Placements
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import DTYPES, ModelConfig
from octavo.models.packed_key import packed_file_name, packed_key
from octavo.models.registry import CausalLM, build_model, config_of, translated

logger = logging.getLogger(__name__)

CACHE_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""Of KV caches alone."""
SHOWN_NAMES = 5
"""Tensor names in an error; the rest are counted."""


def read_config(checkpoint: Checkpoint, generation_folder: Path | None = None) -> ModelConfig:
    """The config of a checkpoint, checked to be one that can be run.

    Args:
        checkpoint: where it is.
        generation_folder: where the generation_config.json is whose end-of-sequence ids are added, in place of the
            checkpoint's own folder.

    Raises:
        ModelError: it cannot be read, its architecture is unknown, or it asks for what the architecture does not do.
    """
    if checkpoint.format == "gguf":
        from octavo.checkpoints.gguf_config import config_fields  # the gguf package is for GGUF files only
        from octavo.checkpoints.gguf_header import read_header

        source = str(checkpoint.path)
        fields = translated(config_fields(read_header(*checkpoint.pieces)), source)
        return config_of(fields, source, None if generation_folder is None else _generation_fields(generation_folder))
    return _folder_config(checkpoint.path, _generation_fields(generation_folder or checkpoint.path))


def _generation_fields(folder: Path) -> dict[str, Any]:
    return read_optional_object(folder / "generation_config.json")


def resolve_dtype(name: str, config: ModelConfig) -> torch.dtype:
    """The dtype to run in: `auto` is the checkpoint's own (bfloat16 for a GGUF).

    Raises:
        ConfigError: `name` is not a known dtype.
    """
    if name == "auto":
        return config.checkpoint_dtype
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}: --dtype is one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def resolve_cache_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The KV cache's dtype: `auto` is the model's.

    Raises:
        ConfigError: `name` is not a dtype that a cache may have.
    """
    if name == "auto":
        return dtype
    known = CACHE_DTYPES | DTYPES
    if name not in known:
        raise ConfigError(f"unknown dtype {name!r}: --kv-cache-dtype is one of auto, {', '.join(known)}")
    return known[name]


def resolve_quantization(name: Quantization, checkpoint: Checkpoint, config: ModelConfig) -> Quantization:
    """What becomes of weights: a kind of checkpoint is `auto`, for such a checkpoint.

    Raises:
        ConfigError: the checkpoint is of another kind.
    """
    if name not in ("awq", "gptq", "compressed-tensors", "gguf"):
        return name
    method = None if config.packing is None else config.packing.method
    kind = "gguf" if checkpoint.format == "gguf" else method
    if kind != name:
        told = f"packed by {kind}" if kind else "not packed"
        raise ConfigError(f"--quantization {name} is for such checkpoints, and {checkpoint.path} is {told}: use auto")
    return "auto"


def read_forms(
    config: ModelConfig, build: ModelBuild, checkpoint: Checkpoint | None, load_format: LoadFormat
) -> dict[str, GroupedForm]:
    """The forms of a checkpoint's matrices that stay as they are in a build, for `ModelBuild.forms`: with `auto` all
    that the kernels have, with `int4` those of 4 bits.

    Raises:
        ModelError: as `load_model`, where a file cannot be read.
        ConfigError: a matrix cannot be split over the ranks in its form.
    """
    has_none = checkpoint is None or (checkpoint.format == "folder" and config.packing is None)
    if build.quantization not in ("auto", "int4") or load_format == "dummy" or has_none:
        return {}
    model = build_model(config, replace(build.on_meta(), forms={}))
    placements = model.placements()
    source = _open_source(model, config, checkpoint, placements, load_format, seed=0)
    wanted = [name for name in source.names() if name in placements and placements[name][0].is_matrix]
    stored = {name: form for name in wanted if (form := source.form(name)) is not None}
    if stored and not build.kernels.has_grouped_weights:
        logger.warning(
            "kernels '%s' have no weights in groups: %d matrices of 4 and 8 bits are widened to %s (with "
            "--quantization int8 they take a byte a weight)",
            *(build.kernels.name, len(stored), str(build.dtype).removeprefix("torch.")),
        )
        return {}
    kept = stored if build.quantization == "auto" else {name: form for name, form in stored.items() if form.bits == 4}
    usable, unlike = usable_forms(model.modules(), placements, kept)
    if unlike and build.quantization == "auto":
        logger.warning(
            "%d matrices of few bits are of one projection with others in unlike forms: they are widened to %s",
            *(len(unlike), str(build.dtype).removeprefix("torch.")),
        )
    return usable


def load_model(
    config: ModelConfig,
    build: ModelBuild,
    checkpoint: Checkpoint | None,
    *,
    load_format: LoadFormat = "auto",
    seed: int = 0,
    progress: bool = False,
    packed: PackedWeights | None = None,
    model: CausalLM | None = None,
) -> CausalLM:
    """Build the model and fill it. Tensors are streamed: beside the weights themselves only slices are held.

    Args:
        config: from `read_config`.
        build: the dtype, device, kernels and tensor-parallel rank.
        checkpoint: where the weights are; may be None for dummy weights.
        load_format: which of a folder's weights to read; `dummy` makes up weights from `seed`.
        progress: show a bar on stderr.
        packed: opened here. What it has of the model's weights is not loaded: those parameters stay unfilled.
        model: this very one, where it has been built on the meta device already.

    Raises:
        ModelError: a file is missing, truncated or corrupt, a tensor is missing, unknown or of another shape, or the
            config asks for what cannot be run. Nothing large has been allocated then, unless a file changes meanwhile.
        ConfigError: the model cannot be split over the tensor-parallel ranks.
    """
    model = model or build_model(config, build.on_meta())
    placements = model.placements()
    _check_placements(model, placements)
    source = _open_source(model, config, checkpoint, placements, load_format, seed)
    _check_source(source, placements, model)
    if packed is not None:
        stored = None if load_format == "dummy" else checkpoint
        packed.open(packed_file_name(stored, config, build), packed_key(stored, source, config, build, seed))
    _materialise(model, build.device)
    unfilled = _packed_parameters(model, packed) if packed is not None else set()
    _stream(source, model.placements(), build.kernels, progress, unfilled)
    return model


def _folder_config(folder: Path, generation: dict[str, Any]) -> ModelConfig:
    raw = read_json(folder / "config.json", dict[str, Any])
    if raw.get("dtype") is None and raw.get("torch_dtype") is None and has_weights(folder):
        raw["dtype"] = open_folder(folder, "auto").dtype_name()
    if raw.get("sep_token_id") is None:
        raw["sep_token_id"] = separator_id(folder)
    source = str(folder / "config.json")
    config = config_of(translated(raw, source), source, generation, read_sentence_files(folder))
    own = (token_id for token_id in tokenizer_end_ids(folder) if token_id < config.vocab_size)
    return replace(config, eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *own))))


def _open_source(
    model: CausalLM,
    config: ModelConfig,
    checkpoint: Checkpoint | None,
    placements: Placements,
    load_format: LoadFormat,
    seed: int,
) -> TensorSource:
    if load_format == "dummy":
        return DummyTensors({name: parts[0].shape for name, parts in placements.items()}, seed)
    if checkpoint is None:
        raise ModelError("there are no weights to load: name a model (--model) or use --load-format dummy")
    if checkpoint.format == "gguf":
        from octavo.checkpoints.gguf import GGUFTensors
        from octavo.checkpoints.gguf_header import read_header

        if load_format not in ("auto", "gguf"):
            raise ConfigError(f"--load-format {load_format} does not go with a GGUF file: {checkpoint.path}")
        return GGUFTensors(read_header(*checkpoint.pieces), config.num_hidden_layers, config.head_dim, placements)
    stored = open_folder(checkpoint.path, load_format)
    plain = stored if config.packing is None else PackedTensors(stored, config.packing)
    own = HuggingFaceTensors(plain, model.base_prefix, model.transposed_tensors)
    dense = {f"{each.folder}.": open_folder(checkpoint.path / each.folder, "auto") for each in config.pooling.dense}
    return JoinedTensors({"": own, **dense}) if dense else own


def _check_placements(model: CausalLM, placements: Placements) -> None:
    """Make sure that the tensors fill every parameter, each element once."""
    filled: Counter[int] = Counter()
    for placement in _all_parts(placements):
        for parameter in placement.parameters():
            filled[id(parameter)] += len(placement.rows) * parameter[:1].numel()
    wrong = [name for name, parameter in model.named_parameters() if filled[id(parameter)] != parameter.numel()]
    if wrong:
        raise ModelError(f"the model's placements do not fill its parameters exactly: {_shorten(wrong)}")


def _all_parts(placements: Placements) -> Iterator[Placement]:
    return chain.from_iterable(placements.values())


def _check_source(source: TensorSource, placements: Placements, model: CausalLM) -> None:
    """Compare names and shapes with the model's, before anything is allocated."""
    names, ignored, foreign = source.names(), model.ignored_tensors, model.foreign_heads
    found = set(names)
    missing = [name for name in placements if name not in found]
    unplaced = [name for name in names if name not in placements]
    others = [name for name in unplaced if not name.endswith(ignored) and not name.startswith(foreign)]
    extra = [name for name in others if not _adds_nothing(source, name)]
    if missing or extra:
        where = source.file(names[0]) if names else "the checkpoint"
        raise ModelError(
            f"{where} does not fit the model's config: "
            f"{len(missing)} tensors are missing ({_shorten(missing)}), {len(extra)} are unknown ({_shorten(extra)})"
        )
    for name, (placement, *_) in placements.items():
        if source.shape(name) != placement.shape:
            raise ModelError(
                f"tensor {name!r} in {source.file(name)} has shape {list(source.shape(name))}, "
                f"the config asks for {list(placement.shape)}"
            )


def _adds_nothing(source: TensorSource, name: str) -> bool:
    """Whether it is a bias of zeros, as some tools write beside each matrix that they pack."""
    if not name.endswith(".bias"):
        return False
    return not any(as_numbers(values).any() for _, values in source.slices(name, range(source.shape(name)[0])))


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES]) or "none"
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"


def _materialise(model: CausalLM, device: torch.device) -> None:
    """Give the modules built on the meta device memory: unfilled parameters, and tables computed from the config."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            shape, dtype = parameter.shape, parameter.dtype
            is_hosts = device.type == "cpu"
            unfilled = large_empty(shape, dtype) if is_hosts else torch.empty(shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(unfilled, requires_grad=False))
        if isinstance(module, RotaryEmbedding):
            module.fill_table(device)


def _packed_parameters(model: CausalLM, packed: PackedWeights) -> set[int]:
    """The ids of the parameters whose weights are there packed."""
    packed.name(model.named_modules(), model.named_parameters())
    return {id(parameter) for name, parameter in model.named_parameters() if packed.has(name)}


def _stream(source: TensorSource, placements: Placements, kernels: Kernels, progress: bool, unfilled: set[int]) -> None:
    """Read every tensor's slices into their places, but for the parameters `unfilled`, which stay so."""
    placements = {
        name: [part for part in parts if not any(id(parameter) in unfilled for parameter in part.parameters())]
        for name, parts in placements.items()
    }
    total = sum(placement.num_bytes for placement in _all_parts(placements))
    with tqdm(total=total, desc="Loading weights", unit="B", unit_scale=True, disable=not progress) as bar:
        for name in source.names():
            for placement in placements.get(name, ()):
                for first_row, values in source.slices(name, placement.rows):
                    placement.load_rows(first_row, values, kernels)
                bar.update(placement.num_bytes)
