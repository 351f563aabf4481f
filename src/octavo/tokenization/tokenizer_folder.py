"""Reading the vocabulary of a local Hugging Face folder: tokenizer.json or GPT-2's two files, and those beside them."""

from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from octavo.checkpoints.json_files import read_optional_object
from octavo.checkpoints.special_tokens import AddedToken, SpecialTokens, read_special_tokens
from octavo.errors import ModelError
from octavo.tokenization.vocabulary import TOOL_TEMPLATE, Vocabulary

BYTE_LEVEL_FILES = ("vocab.json", "merges.txt")
"""What checkpoints of GPT-2's and OPT's time have in place of a tokenizer.json."""
TOOL_TEMPLATE_FILE = f"additional_chat_templates/{TOOL_TEMPLATE}.jinja"
_BYTE_LEVEL_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


def read_tokenizer_folder(folder: Path) -> Vocabulary:
    """Read tokenizer.json and, where there, tokenizer_config.json, special_tokens_map.json, added_tokens.json and
    the files of chat templates.

    Raises:
        ModelError: there is no tokenizer.json, and none can be made of what is there, or a file cannot be read as what
            it should be.
    """
    config = read_optional_object(folder / "tokenizer_config.json")
    special = read_special_tokens(folder)
    has_files = all((folder / name).is_file() for name in BYTE_LEVEL_FILES)
    if has_files and config.get("tokenizer_class") in _BYTE_LEVEL_CLASSES and not (folder / "tokenizer.json").is_file():
        backend = _byte_level_backend(folder, config)
        _add_tokens(backend, special)
        _add_bos(backend, config, special)
    else:
        backend = _read_backend(folder / "tokenizer.json")
        _add_tokens(backend, special)
    templates = _chat_templates(folder, config)
    return Vocabulary(
        backend=backend,
        special_tokens=special.roles,
        chat_template=templates.get("default"),
        tool_template=templates.get(TOOL_TEMPLATE),
        config=config,
    )


def _add_tokens(backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
    """Add what the files beside the vocabulary declare, and make special what they name as such. A token that is there
    keeps its id."""
    backend.add_tokens([_added(token) for token in special.declared])
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    named = [known.get(token.content) or _added(token) for token in special.named]
    for token in named:
        token.special = True
    backend.add_tokens(named)


def _added(token: AddedToken) -> tokenizers.AddedToken:
    flags = {name: value for name, value in msgspec.structs.asdict(token).items() if value is not None}
    return tokenizers.AddedToken(**flags)


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no tokenizer.json; saving the tokenizer with transformers' save_pretrained makes one"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the file
        raise ModelError(f"{path} cannot be read as a tokenizer: {error}") from error
    # Files keep the settings of the last training run; a prompt must be neither cut nor filled up.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _byte_level_backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE, as transformers' GPT2Tokenizer makes it of the same files."""
    vocab, merges = (folder / name for name in BYTE_LEVEL_FILES)
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the files
        raise ModelError(f"{vocab} and merges.txt cannot be read as a tokenizer: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space") is True)
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_bos(backend: tokenizers.Tokenizer, config: dict[str, Any], special: SpecialTokens) -> None:
    bos = special.roles.get("bos_token")
    if config.get("add_bos_token") and bos is not None:
        bos_id = backend.token_to_id(bos)
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])


def _chat_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """By name. Templates in files of their own go before the config's, where a text is that called `default`."""
    files = {"default": folder / "chat_template.jinja", TOOL_TEMPLATE: folder / TOOL_TEMPLATE_FILE}
    if found := {name: _read_text(file) for name, file in files.items() if file.is_file()}:
        return found
    try:
        template = msgspec.convert(config.get("chat_template"), str | list[_NamedTemplate] | None)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"chat_template in {folder / 'tokenizer_config.json'} must be a text or a list of objects with name and "
            f"template: {error}"
        ) from error
    if isinstance(template, list):
        return {named.name: named.template for named in template}
    return {} if template is None else {"default": template}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read as UTF-8 text: {error}") from error
