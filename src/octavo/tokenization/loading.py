"""The tokenizer that a config asks for."""

from pathlib import Path
from typing import Any

from octavo.checkpoints.locate import Checkpoint, locate
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.tokenization.tokenizer import Tokenizer


def load_tokenizer(config: EngineConfig) -> Tokenizer:
    """The tokenizer of a model, or the one that `--tokenizer` names, with `--chat-template` over its own.

    Raises:
        ModelError: it cannot be found or read.
    """
    checkpoint: Checkpoint = locate(config.tokenizer or config.model)
    template = _read_text(config.chat_template, "--chat-template") if config.chat_template else None
    chat: dict[str, Any] = {
        "chat_template": template,
        "content_format": config.chat_template_content_format,
        "special_tokens_in_messages": config.special_tokens_in_messages,
    }
    if checkpoint.format == "gguf":
        return Tokenizer.from_gguf(*checkpoint.pieces, **chat)
    return Tokenizer.from_folder(checkpoint.path, **chat)


def read_score_template(config: EngineConfig) -> str | None:
    """What `--score-template` names.

    Raises:
        ConfigError: the file cannot be read.
    """
    return None if config.score_template is None else _read_text(config.score_template, "--score-template")


def read_pinned_prefix(path: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a text that prompts begin with (`--pin-prefix`), as a completion's prompt would have them.

    Raises:
        ConfigError: the file cannot be read.
    """
    return tokenizer.encode(_read_text(path, "--pin-prefix"))


def _read_text(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} {path} cannot be read: {error}") from error
