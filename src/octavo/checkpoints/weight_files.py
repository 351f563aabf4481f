"""Which files of a folder hold a model's weights. Told by their names, so it serves a folder on the hub as well as one
here. Torch-free."""

import re
from collections.abc import Callable, Collection
from typing import Literal

import msgspec

from octavo.config import LoadFormat
from octavo.errors import ModelError

FolderFormat = Literal["safetensors", "bin"]
"""The formats of weights that lie beside a config.json; a GGUF file has everything inside."""

WHOLE: dict[FolderFormat, str] = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}
"""The file that holds all weights. Where they are in several, an index named after it tells which."""
_PIECE = re.compile(r"(.+)-\d{5}-of-\d{5}\.gguf")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def index_name(kind: FolderFormat) -> str:
    """The file that tells which files hold the tensors of a model in several."""
    return f"{WHOLE[kind]}.index.json"


def folder_formats(names: Collection[str]) -> list[FolderFormat]:
    """The formats that a folder has weights in, the better first."""
    return [kind for kind in WHOLE if _weights_of(names, kind)]


def is_gguf(names: Collection[str], load_format: LoadFormat, gguf_file: str | None) -> bool:
    """Whether a GGUF file in the folder is what to run: it is asked for, or there is nothing else to run."""
    if gguf_file is not None or load_format == "gguf":
        return True
    if not any(name.endswith(".gguf") for name in names):
        return False
    return "config.json" not in names or (load_format == "auto" and not folder_formats(names))


def choose_format(names: Collection[str], load_format: LoadFormat, where: str) -> FolderFormat:
    """The format that `--load-format` asks for; `auto` is safetensors before .bin.

    Args:
        names: of the folder's files.
        where: the folder, for errors.

    Raises:
        ModelError: the folder has no weights of that format.
    """
    there = folder_formats(names)
    chosen = next((kind for kind in there if load_format in ("auto", kind)), None)
    if chosen is None and there:
        raise ModelError(f"{where} has its weights as {', '.join(there)}: change --load-format {load_format}")
    if chosen is None:
        raise ModelError(
            f"{where} has no weights: no safetensors files and no {WHOLE['bin']} (--load-format dummy runs without any)"
        )
    return chosen


def weight_files(
    names: Collection[str], kind: FolderFormat, where: str, read_index: Callable[[str], bytes]
) -> list[str]:
    """The names of the files that make up the model's weights.

    Args:
        names: of the folder's files, some of them of the format `kind` (`choose_format`).
        where: the folder, for errors.
        read_index: the content of one of them.

    Raises:
        ModelError: the index cannot be used, names files that are not there, or there is none to choose between files.
    """
    index = index_name(kind)
    if index in names:
        return _indexed_files(names, index, where, read_index(index))
    found = _weights_of(names, kind)
    if WHOLE[kind] in found:
        return [WHOLE[kind]]
    if len(found) > 1:
        raise ModelError(f"{where} has {len(found)} {kind} files but no {index} to say which make the model")
    return found


def choose_gguf(names: Collection[str], wanted: str | None, where: str) -> list[str]:
    """The GGUF file to run, or the pieces of one, in order.

    Args:
        names: of the folder's files.
        wanted: `--gguf-file`, a file's name or a part of it in upper or lower case. None: there is one only.
        where: the folder, for errors.

    Raises:
        ModelError: none fits, or several do; the message lists them.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        # A file called mmproj… holds the picture encoder that goes with a model.
        if name.endswith(".gguf") and not name.rpartition("/")[2].startswith("mmproj"):
            piece = _PIECE.fullmatch(name)
            models.setdefault(piece[1] if piece else name, []).append(name)
    part = (wanted or "").lower()
    fitting = [files for files in models.values() if wanted in files] or [
        files for files in models.values() if any(part in name.lower() for name in files)
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(files[0] for files in models.values()) or "none"
    asked = f"{len(fitting)} that fit --gguf-file {wanted}" if wanted else f"{len(models)}"
    raise ModelError(f"{where} has {asked} GGUF models, not one (all: {listed}): choose with --gguf-file")


def _weights_of(names: Collection[str], kind: FolderFormat) -> list[str]:
    """Any safetensors file holds weights; of .bin files, which may hold anything, those with the usual name do."""
    usual = {"safetensors": r"[^/]*\.safetensors", "bin": r"pytorch_model[^/]*\.bin"}[kind]
    return sorted(name for name in names if re.fullmatch(usual, name))


def _indexed_files(names: Collection[str], index: str, where: str, content: bytes) -> list[str]:
    try:
        weight_map = msgspec.json.decode(content, type=_Index).weight_map
    except msgspec.MsgspecError as error:
        raise ModelError(f"{index} in {where} is not a usable index: {error}") from error
    files = sorted(set(weight_map.values()))
    missing = [name for name in files if name not in names]
    if missing:
        raise ModelError(f"{where} lacks {len(missing)} of the {len(files)} files in its {index}: {', '.join(missing)}")
    return files
