"""From what `--model` names to files on this machine: what is on the hub is downloaded. Torch-free."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from octavo.checkpoints.hub import HubModel, is_hub_id
from octavo.checkpoints.sentence_files import MODULES, TRANSFORMER_FILES
from octavo.checkpoints.weight_files import WHOLE, choose_format, choose_gguf, is_gguf, weight_files
from octavo.config import EngineConfig

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    MODULES,
    *TRANSFORMER_FILES,
)
"""What is read of a model beside its weights and its vocabulary."""
MODULE_FOLDER = re.compile(r"\d+_(Pooling|Dense)")
"""The folders of modules that embeddings go through; each has a config.json."""
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files that a vocabulary may be in; the first that are there are read."""


def resolve_model(config: EngineConfig, *, weights: bool = True) -> EngineConfig:
    """The config with its model and tokenizer as files here; one that has them so comes back as it is.

    Where `config` names a model on the hub, this is its only way there: it is done once, before other processes are
    started.

    Args:
        weights: False gets no more than tells the model's shape, as far as its format has that apart.

    Raises:
        ModelError: the hub does not have the model or cannot be reached, a download is damaged, or the folder has not
            the weights that are asked for.
    """
    weights = weights and config.load_format != "dummy"
    model = str(_fetch(config, weights)) if is_hub_id(config.model) else _choose_in_folder(config)
    tokenizer = config.tokenizer
    if tokenizer is not None and is_hub_id(tokenizer):
        revision = config.revision if tokenizer == config.model else None
        other = replace(config, model=tokenizer, revision=revision, load_format="auto", gguf_file=None)
        tokenizer = str(_fetch(other, weights=False))
    return replace(config, model=model, tokenizer=tokenizer, gguf_file=None)


def _fetch(config: EngineConfig, weights: bool) -> Path:
    """Get a model from the hub. Returns its folder or GGUF file."""
    found = HubModel.find(config.model, config.revision, config.download_dir, config.offline)
    names, where = found.file_names, f"{config.model} on the hub"
    if is_gguf(names, config.load_format, config.gguf_file):
        pieces = choose_gguf(names, config.gguf_file, where)
        found.fetch(pieces)
        return found.folder / pieces[0]
    modules = sorted({name.partition("/")[0] for name in names if MODULE_FOLDER.match(name)})
    configs = (f"{module}/config.json" for module in modules)
    found.fetch(name for name in (*SMALL_FILES, *configs, *_vocabulary(names)) if name in names)
    if weights:
        kind = choose_format(names, config.load_format, where)
        found.fetch(weight_files(names, kind, where, found.read))
        for module in modules:
            files = [f"{module}/{name}" for name in WHOLE.values()]
            found.fetch([name for name in files if name in names][:1])
    return found.folder


def _vocabulary(names: Collection[str]) -> tuple[str, ...]:
    return next((files for files in VOCABULARIES if set(files) <= set(names)), ())


def _choose_in_folder(config: EngineConfig) -> str:
    """The GGUF file in a folder, where that is what to run; anything else as it is."""
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        return config.model
    names = [path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*.gguf"))]
    if not is_gguf(names, config.load_format, config.gguf_file):
        return config.model
    return str(folder / choose_gguf(names, config.gguf_file, str(folder))[0])
