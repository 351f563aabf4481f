"""Which of an answer's tokens are its reasoning, and which its text."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from octavo.answers.answer_format import AnswerReader
from octavo.answers.parts import Part, Text
from octavo.tokenization.detokenizer import Detokenizer

Entry = TypeVar("Entry")


class AnswerTokens(Generic[Entry]):
    """Reads an answer token by token, so that what it tells does not depend on how the text came in pieces.

    Args:
        reader: of this answer, one of its own.
        detokenizer: likewise; it leaves special tokens in the text.
    """

    def __init__(self, reader: AnswerReader, detokenizer: Detokenizer) -> None:
        self._reader = reader
        self._detokenizer = detokenizer
        self._waiting: list[Entry] = []
        """Of tokens that may still be either: they could begin a marker."""
        self._was_text = True
        self.num_reasoning = 0
        """Tokens of reasoning, with its markers."""

    def push(self, token_ids: Sequence[int], entries: Sequence[Entry]) -> list[Entry]:
        """Take the next tokens.

        Args:
            entries: what there is of each.

        Returns:
            The entries of tokens that are known by now to be part of the text that the user is told.
        """
        told: list[Entry] = []
        for token_id, entry in zip(token_ids, entries, strict=True):
            self._waiting.append(entry)
            was_reasoning = self._reader.is_reasoning
            text = self._detokenizer.push(token_id)
            parts = self._reader.push(text) if text else ()
            if was_reasoning or self._reader.is_reasoning:
                self.num_reasoning += len(self._waiting)
                self._waiting.clear()
            elif parts:
                told += self._settled(parts)
        return told

    def finish(self) -> list[Entry]:
        """No more tokens are coming: the entries of text that are left."""
        return self._settled(self._reader.finish())

    def _settled(self, parts: Sequence[Part]) -> list[Entry]:
        if parts:
            self._was_text = isinstance(parts[-1], Text)
        settled, self._waiting = self._waiting, []
        return settled if self._was_text else []
