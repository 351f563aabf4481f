"""How few tokens a text can have, so that one far too long is refused before it is tokenized."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import tokenizers

from octavo.tokenization.token_bytes import byte_values

COMPOSED_BYTES = 3
"""Unicode's canonical composition (NFC) makes a text at most so many times shorter: nine bytes of Hangul are three."""


@dataclass(frozen=True, slots=True)
class TextLength:
    """What bounds a tokenizer's tokens from below."""

    bytes_a_token: int | None
    """The longest text, in bytes of UTF-8, that becomes one token; None where a token may stand for any text."""
    dropped: bytes = b""
    """Bytes that no token stands for: they are left out of the text."""

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> Self:
        """Measure a tokenizer, if its parts are known to shorten no text but by merges: byte-pair encoding of bytes, no
        normalization that makes a text much shorter, and no tokens that swallow the spaces beside them."""
        shrinking = _shrinking(_settings(backend.normalizer))
        swallows = any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values())
        model = backend.model
        if not isinstance(model, tokenizers.models.BPE) or swallows or shrinking is None:
            return cls(None)
        vocab = backend.get_vocab(with_added_tokens=True)
        if _is_byte_level(_settings(backend.pre_tokenizer)):
            spelled = byte_values()
            # A token spelled otherwise, as added ones may be, stands for itself.
            longest = max(len(token) if spelled.keys() >= set(token) else len(token.encode()) for token in vocab)
            return cls(shrinking * longest, bytes(spelled[character] for character in spelled.keys() - vocab.keys()))
        if not (model.byte_fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))):
            return cls(None)
        return cls(shrinking * max(len(token.encode()) for token in vocab))

    def least_tokens(self, text: str) -> int:
        """How many tokens a text has at least."""
        if self.bytes_a_token is None:
            return 0
        num_bytes = len(text.encode("utf-8", "surrogatepass").translate(None, self.dropped))
        return -(-num_bytes // self.bytes_a_token)


def _settings(part: Any) -> dict[str, Any] | None:
    """What a part of a tokenizer was made with."""
    settings: dict[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return settings


def _shrinking(normalizer: Mapping[str, Any] | None) -> int | None:
    """How many times shorter a normalizer can make a text; None where that is not known."""
    match normalizer:
        case None | {"type": "Prepend"}:
            return 1
        case {"type": "NFC"}:
            return COMPOSED_BYTES
        case {"type": "Replace", "pattern": {"String": spelled}, "content": text}:
            return 1 if len(text.encode()) >= len(spelled.encode()) else None
        case {"type": "Sequence", "normalizers": parts}:
            product = 1
            for part in parts:
                factor = _shrinking(part)
                if factor is None:
                    return None
                product *= factor
            return product
        case _:
            return None


def _is_byte_level(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether tokens are spelled in GPT-2's alphabet of bytes, and no part of the text is dropped before."""
    match pre_tokenizer:
        case {"type": "ByteLevel"}:
            return True
        case {"type": "Sequence", "pretokenizers": parts}:
            keeps_all = all(part["type"] == "ByteLevel" or part.get("behavior") != "Removed" for part in parts)
            return keeps_all and any(_is_byte_level(part) for part in parts)
        case _:
            return False
