"""The JSON files of a checkpoint's folder."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from octavo.errors import ModelError

Content = TypeVar("Content")


def read_json(path: Path, content: type[Content]) -> Content:
    """The file's object, of the type `content`.

    Raises:
        ModelError: the file is missing, is not JSON, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=content)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path} cannot be read as a JSON object: {error}") from error


def read_optional_object(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is no file.

    Raises:
        ModelError: the file is not JSON, or holds something else than an object.
    """
    return read_json(path, dict[str, Any]) if path.is_file() else {}
