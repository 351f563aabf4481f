"""What the files beside a folder's vocabulary say of its tokens: which are added, which are special, which end a text.

tokenizer_config.json, special_tokens_map.json and added_tokens.json overlap, and checkpoints have any of them. They are
read as transformers 5 reads them, so that every token has the same id here and there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from octavo.checkpoints.json_files import read_json, read_optional_object
from octavo.errors import ModelError

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that any tokenizer may have, in the order in which new ones get their ids."""

Fields = dict[str, Any]


class AddedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that is found whole wherever a text has it, as the `tokenizers` package describes one."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    """Whether it is looked for in normalized text; None is as for others of its kind: where it is not special."""
    special: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a folder's files say, beside tokenizer.json."""

    declared: tuple[AddedToken, ...]
    """Those that have an id in the files, by it. The vocabulary takes them in this order, and keeps those it has."""
    named: tuple[AddedToken, ...]
    """Those that are special by name, with or without a role. The vocabulary takes them behind the declared ones."""
    roles: dict[str, str]
    """Texts by role (`bos_token`, `eos_token` ...)."""
    ends: tuple[str, ...]
    """The texts that any of the files calls `eos_token`."""


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]] = {}


class _NumberedToken(msgspec.Struct):
    id: int
    content: str


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_NumberedToken] = []
    model: _Model = msgspec.field(default_factory=_Model)


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read the three files, as far as they are there. tokenizer_config.json counts alone where it declares added
    tokens (`added_tokens_decoder`); the other two belong to those that don't.

    Raises:
        ModelError: a file cannot be read as what it should be.
    """
    config, in_map = (
        read_optional_object(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    has_declared = "added_tokens_decoder" in config
    fields = config if has_declared else config | in_map
    try:
        named = tuple(_named(fields))
        if has_declared:
            numbered = msgspec.convert(config["added_tokens_decoder"], dict[int, AddedToken], strict=False)
        else:
            ids = msgspec.convert(read_optional_object(folder / "added_tokens.json"), dict[str, int])
            texts = {token.content for token in named}
            numbered = {ids[text]: AddedToken(content=text, special=text in texts) for text in ids}
    except msgspec.ValidationError as error:
        raise ModelError(f"the special tokens of {folder} (tokenizer_config.json) cannot be read: {error}") from error
    every = in_map | fields
    return SpecialTokens(
        declared=tuple(numbered[token_id] for token_id in sorted(numbered)),
        named=named,
        roles={role: text for role in ROLES if (text := _text(every.get(role))) is not None},
        ends=tuple(dict.fromkeys(text for each in (config, in_map) if (text := _text(each.get("eos_token"))))),
    )


def tokenizer_end_ids(folder: Path) -> list[int]:
    """The ids of the tokens that a folder's tokenizer files call the end of a sequence.

    Raises:
        ModelError: a file cannot be read as what it should be.
    """
    special = read_special_tokens(folder)
    if not special.ends:
        return []
    ids = _vocabulary(folder)
    if not ids:
        return []
    for token in (*special.declared, *special.named):
        ids.setdefault(token.content, max(ids.values()) + 1)
    return [ids[text] for text in special.ends if text in ids]


def separator_id(folder: Path) -> int | None:
    """The id of the token that a folder's tokenizer files put between two texts; None where there is none.

    Raises:
        ModelError: a file cannot be read as what it should be.
    """
    text = read_special_tokens(folder).roles.get("sep_token")
    return None if text is None else _vocabulary(folder).get(text)


def _named(fields: Fields) -> list[AddedToken]:
    """The tokens with a role, then the others that are special: a list, or an object whose keys are their roles."""
    extra = msgspec.convert(
        fields.get("extra_special_tokens") or fields.get("additional_special_tokens") or [], list[Any] | dict[str, Any]
    )
    own = {role: token for role, token in fields.items() if role.endswith("_token") and role not in ROLES}
    own |= msgspec.convert(fields.get("model_specific_special_tokens") or {}, dict[str, Any])
    others = [*own.values(), *extra.values()] if isinstance(extra, dict) else [*extra, *own.values()]
    given = [fields.get(role) for role in ROLES] + others
    return [_special(token) for token in given if _text(token)]


def _special(token: object) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(content=token, special=True)
    return msgspec.structs.replace(msgspec.convert(token, AddedToken), special=True)


def _text(token: object) -> str | None:
    """A special token is written as its text or as an object with the text under `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _vocabulary(folder: Path) -> dict[str, int]:
    """The ids of tokenizer.json or vocab.json; none where there is neither."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_json(folder / "tokenizer.json", _Tokenizer)
        vocab = tokenizer.model.vocab
        ids = vocab if isinstance(vocab, dict) else {text: index for index, (text, _) in enumerate(vocab)}
        return ids | {token.content: token.id for token in tokenizer.added_tokens}
    return read_json(folder / "vocab.json", dict[str, int]) if (folder / "vocab.json").is_file() else {}
