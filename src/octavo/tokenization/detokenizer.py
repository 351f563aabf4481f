"""Turning tokens into text while they are generated."""

import codecs
from collections.abc import Collection

from octavo.tokenization.token_bytes import TokenBytes, strip_leading_spaces

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_SURROGATES = b"\xed\xa0"
"""What the first of them begins with. Python's decoder waits for the rest of one, though it is no UTF-8."""


class Detokenizer:
    """The text of one sequence, a token at a time, at the same cost for each however long the text is.

    Joined, the pushed texts are what decoding all tokens at once gives, less an unfinished character at the end:
    nothing else is ever held back, so a text needs no end.
    Bytes that are no UTF-8 become U+FFFD as soon as that is certain.

    Args:
        token_bytes: the tokenizer's tokens as bytes.
        skip_special_tokens: leave special tokens out.
        continues: the text goes on from another (an output from its prompt), so a leading space belongs to it.
        kept_specials: special tokens that are part of one of these are not left out.
    """

    def __init__(
        self,
        token_bytes: TokenBytes,
        skip_special_tokens: bool = True,
        continues: bool = False,
        kept_specials: Collection[str] = (),
    ) -> None:
        self._token_bytes = token_bytes
        self._skips_special_tokens = skip_special_tokens
        self._kept_specials = [text.encode() for text in kept_specials]
        self._num_leading_spaces = 0 if continues else token_bytes.num_leading_spaces
        self._utf8 = _Utf8Decoder(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes: maybe none, never half of one."""
        if self.hides(token_id):
            return ""
        token = self._token_bytes[token_id]
        text = self._utf8.decode(token)
        if token[-1:] >= _SURROGATES[1:] and self._utf8.getstate()[0] == _SURROGATES[:1] + token[-1:]:
            text += self._utf8.decode(b"", final=True)
        return self._strip(text) if self._num_leading_spaces and text else text

    def hides(self, token_id: int) -> bool:
        """Whether the token is left out of the text: a special one, unless it is kept."""
        if not self._skips_special_tokens or not self._token_bytes.is_special(token_id):
            return False
        token = self._token_bytes[token_id]
        return not any(token in kept for kept in self._kept_specials)

    def _strip(self, text: str) -> str:
        stripped = strip_leading_spaces(text, self._num_leading_spaces)
        self._num_leading_spaces = 0 if stripped else self._num_leading_spaces - len(text)
        return stripped
