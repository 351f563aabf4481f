"""The bytes that each token stands for, so that text is decoded token by token and never decoded again.

`tokenizers.decoders.DecodeStream` decodes all tokens since the last whole character at each step: while bytes arrive
that are no UTF-8 it gives nothing, at a cost that grows with each token. With bytes in hand an incremental UTF-8
decoder is exact and takes the same time for every token.
"""

import json
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from octavo.errors import ModelError

KNOWN_DECODERS = (
    "ByteLevel, ByteFallback, Fuse, Metaspace, Replace of a plain text, Strip of leading spaces, WordPiece, Sequence"
)
CLEANED_UP = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " do not": " don't",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}
"""What `cleanup` of a WordPiece decoder makes of a token, in this order."""


class TokenBytes:
    """A tokenizer's decoder, for single tokens: many tokens' text is their bytes joined, less `num_leading_spaces`.

    This equals the `tokenizers` package's decoding but for byte-fallback runs that are not UTF-8: there a bad sequence
    becomes one U+FFFD, as it does everywhere else, where the package replaces every byte of the run, good ones too. And
    but for a WordPiece text whose first token goes on with a word: the package shows the mark of that.

    Raises:
        ModelError: the decoder has a part that does not work token by token.
    """

    num_leading_spaces: int = 0
    """How many spaces at the very start of a text are the tokenizer's own and not the text's."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._special_ids = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        self._known: dict[int, bytes] = {}
        self._replacements: list[tuple[str, str]] = []
        self._has_byte_fallback = False
        self._byte_values: dict[str, int] = {}
        self._separator = ""
        self._continuing = ""
        """What WordPiece tokens begin with that go on with a word; such a token stands for the rest of its spelling."""
        if backend.decoder is None:
            # The package then joins tokens with spaces.
            self._separator, self.num_leading_spaces = " ", 1
        else:
            self._read_decoder(json.loads(backend.decoder.__getstate__()))

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this token out."""
        return token_id in self._special_ids

    @cached_property
    def special_texts(self) -> list[str]:
        """The texts of special tokens."""
        texts = (self[token_id].decode("utf-8", errors="replace") for token_id in self._special_ids)
        return [text for text in texts if text]

    def __getitem__(self, token_id: int) -> bytes:
        """The token's bytes, which need not be whole characters; none for an id that the vocabulary does not have."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._bytes_of(self._backend.id_to_token(token_id))
        return known

    def _bytes_of(self, token: str | None) -> bytes:
        if token is None:
            return b""
        # A token spelled with any other character, as added tokens may be, stands for itself.
        if self._byte_values and all(character in self._byte_values for character in token):
            return bytes(self._byte_values[character] for character in token)
        if self._has_byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        if self._continuing and token.startswith(self._continuing):
            return token.removeprefix(self._continuing).encode("utf-8")
        token = self._separator + token
        for spelled, text in self._replacements:
            token = token.replace(spelled, text)
        return token.encode("utf-8")

    def _read_decoder(self, decoder: dict[str, Any]) -> None:
        match decoder:
            case {"type": "Sequence", "decoders": parts}:
                for part in parts:
                    self._read_decoder(part)
            case {"type": "ByteLevel"}:
                self._byte_values = byte_values()
            case {"type": "Replace", "pattern": {"String": spelled}, "content": text}:
                self._replacements.append((spelled, text))
            case {"type": "Metaspace", "replacement": spelled, "prepend_scheme": scheme}:
                self._replacements.append((spelled, " "))
                self.num_leading_spaces = 0 if scheme == "never" else 1
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                self.num_leading_spaces = start
            case {"type": "ByteFallback"}:
                self._has_byte_fallback = True
            case {"type": "WordPiece", "prefix": prefix, "cleanup": cleans_up}:
                self._separator, self.num_leading_spaces, self._continuing = " ", 1, prefix
                self._replacements += CLEANED_UP.items() if cleans_up else ()
            case {"type": "Fuse"}:
                pass
            case _:
                raise ModelError(f"the tokenizer's decoder has an unknown part: {decoder}; known are {KNOWN_DECODERS}")


def byte_values() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the others in order as the characters from U+0100 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(alphabet[len(printable) :], others, strict=True))


def strip_leading_spaces(text: str, limit: int) -> str:
    """The text without its first spaces, at most `limit` of them."""
    num_spaces = len(text) - len(text.lstrip(" "))
    return text[min(num_spaces, limit) :]
