"""The JSON files of a checkpoint's folder, and what its tokenizer's say of the end of a sequence."""

from pathlib import Path
from typing import TypeVar

import msgspec

from octavo.errors import ModelError

Content = TypeVar("Content")

SPECIAL_TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class _Token(msgspec.Struct):
    content: str


class _SpecialTokens(msgspec.Struct):
    eos_token: str | _Token | None = None


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def read_json(path: Path, content: type[Content]) -> Content:
    """The file's object, of the type `content`.

    Raises:
        ModelError: the file is missing, is not JSON, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=content)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path} cannot be read as a JSON object: {error}") from error


def tokenizer_eos_ids(folder: Path) -> list[int]:
    """The ids of the tokenizer's end-of-sequence token; none where the files that name it are not there.

    Raises:
        ModelError: a file cannot be read as what it should be.
    """
    tokenizer = folder / "tokenizer.json"
    files = [folder / name for name in SPECIAL_TOKEN_FILES]
    named = (read_json(file, _SpecialTokens).eos_token for file in files if file.is_file())
    eos = next((token for token in named if token is not None), None)
    if eos is None or not tokenizer.is_file():
        return []
    text = eos.content if isinstance(eos, _Token) else eos
    return [token.id for token in read_json(tokenizer, _Tokenizer).added_tokens if token.content == text]
