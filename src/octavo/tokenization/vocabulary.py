"""What a model's files say about its text: the tokenizer itself, its special tokens and its chat template."""

from dataclasses import dataclass, field
from typing import Any

import tokenizers

TOOL_TEMPLATE = "tool_use"
"""How files name the chat template of conversations with tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The same facts, whichever kind of file they were read from."""

    backend: tokenizers.Tokenizer
    """Splits, merges and post-processes; neither truncates nor pads."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """Texts by role (`bos_token`, `eos_token` ...): the variables that chat templates expect."""
    chat_template: str | None = None
    """Jinja source."""
    tool_template: str | None = None
    """That of conversations with tools, where they have one of their own."""
    config: dict[str, Any] = field(default_factory=dict)
    """The content of tokenizer_config.json, where the files have one."""
