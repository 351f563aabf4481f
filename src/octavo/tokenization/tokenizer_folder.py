"""Reading the vocabulary of a local Hugging Face folder: tokenizer.json or GPT-2's two files, and those beside them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from octavo.errors import ModelError
from octavo.tokenization.vocabulary import Vocabulary

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
BYTE_LEVEL_FILES = ("vocab.json", "merges.txt")
"""What checkpoints of GPT-2's and OPT's time have in place of a tokenizer.json."""
_BYTE_LEVEL_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast")


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


def read_tokenizer_folder(folder: Path) -> Vocabulary:
    """Read tokenizer.json and, where there, tokenizer_config.json, special_tokens_map.json and chat_template.jinja.

    Raises:
        ModelError: there is no tokenizer.json, and none can be made of what is there, or a file cannot be read as what
            it should be.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(_read_json(folder / "special_tokens_map.json") | config)
    has_files = all((folder / name).is_file() for name in BYTE_LEVEL_FILES)
    if has_files and config.get("tokenizer_class") in _BYTE_LEVEL_CLASSES and not (folder / "tokenizer.json").is_file():
        backend = _byte_level_backend(folder, config, special_tokens)
    else:
        backend = _read_backend(folder / "tokenizer.json")
    template = _chat_template(folder, config)
    return Vocabulary(backend=backend, special_tokens=special_tokens, chat_template=template, config=config)


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


def _byte_level_backend(folder: Path, config: dict[str, Any], special_tokens: dict[str, str]) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE, as transformers' GPT2Tokenizer makes it of the same files."""
    vocab, merges = (folder / name for name in BYTE_LEVEL_FILES)
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the files
        raise ModelError(f"{vocab} and merges.txt cannot be read as a tokenizer: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space") is True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(dict.fromkeys(special_tokens.values())))
    bos = special_tokens.get("bos_token")
    if config.get("add_bos_token") and bos is not None:
        bos_id = backend.token_to_id(bos)
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """A special token is written as its text or as an object with the text under `content`."""
    texts = {}
    for role in SPECIAL_TOKENS:
        token = config.get(role)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            texts[role] = text
    return texts


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """A template in its own file goes before the config's, where a list of named ones means that called `default`."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{file} cannot be read as UTF-8 text: {error}") from error
    try:
        template = msgspec.convert(config.get("chat_template"), str | list[_NamedTemplate] | None)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"chat_template in {folder / 'tokenizer_config.json'} must be a text or a list of objects with name and "
            f"template: {error}"
        ) from error
    if isinstance(template, list):
        return next((named.template for named in template if named.name == "default"), None)
    return template
