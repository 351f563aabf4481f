"""The weights of a folder in Hugging Face's layout, in whichever format they are."""

from pathlib import Path

from octavo.checkpoints.safetensors import SafetensorsTensors
from octavo.checkpoints.torch_files import TorchTensors
from octavo.checkpoints.weight_files import choose_format, folder_formats, weight_files
from octavo.config import LoadFormat


def has_weights(folder: Path) -> bool:
    """Whether there are weights of any format."""
    return bool(folder_formats(_file_names(folder)))


def open_folder(folder: Path, load_format: LoadFormat) -> SafetensorsTensors | TorchTensors:
    """The folder's tensors under the names and in the shapes in which they are stored.

    Raises:
        ModelError: there are no weights of that format, or a file is missing, truncated or corrupt.
    """
    names = _file_names(folder)
    kind = choose_format(names, load_format, str(folder))
    files = weight_files(names, kind, str(folder), lambda name: (folder / name).read_bytes())
    paths = [folder / name for name in files]
    return SafetensorsTensors(paths) if kind == "safetensors" else TorchTensors(paths)


def _file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
