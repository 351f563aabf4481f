"""What messages say is text: special tokens spelled in it are told from those that the chat template writes.

Before a template sees them, texts get a separator, a character that occurs nowhere in them, inside of each spelling.
What a template does with texts (strip, slice, change case, dump as JSON) leaves a spelling broken. A spelling that is
whole in the rendered prompt is the template's own.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import tokenizers

from octavo.errors import RequestError

_SEPARATORS = range(0x2A6DF, 0x20000, -1)
"""Rare ideographs: printable and without case, so that no dump of a text spells them out and no filter changes them."""


class Rendered(NamedTuple):
    """A prompt that a chat template has written."""

    text: str
    """With separators, where there is one."""
    separator: str | None = None
    """None where no message spells a special token."""

    @property
    def plain(self) -> str:
        """The text as it was meant."""
        return self.text if self.separator is None else self.text.replace(self.separator, "")


def unused_characters(value: Any) -> Iterator[str]:
    """Characters that occur in none of a value's texts, and that templates leave alone.

    Raises:
        RequestError: there is none left.
    """
    used = set(" ".join(_texts(value)))
    yield from (chr(code) for code in _SEPARATORS if chr(code) not in used)
    raise RequestError("the messages use every rare ideograph of Unicode: none is left to mark special tokens with")


def unescape(text: str, character: str) -> str:
    """A text in which no `tojson` has spelled the character out."""
    return text.replace(json.dumps(character)[1:-1], character)


class SpellingBreaker:
    """Puts separators into texts.

    Beside whole spellings, of any case, it breaks what a neighbour could complete: the beginning of a spelling at the
    end of a text, its end at the beginning. Parts that are words alone are left as they are, for templates compare
    texts with words.

    Args:
        spellings: of special tokens.
    """

    def __init__(self, spellings: Collection[str]) -> None:
        self._whole = re.compile(_beginning_of_any(spellings), re.IGNORECASE | re.DOTALL) if spellings else None
        lowered = {spelling.lower() for spelling in spellings}
        self._beginnings = {part for each in lowered for end in range(1, len(each)) if _is_mark(part := each[:end])}
        self._ends = {part for each in lowered for start in range(1, len(each)) if _is_mark(part := each[start:])}
        self._all = "\0".join(lowered)
        self._longest = max(map(len, lowered), default=0)

    def touches(self, value: Any) -> bool:
        """Whether any text in a value would get a separator."""
        return any(self._broken(text, "\0") != text for text in _texts(value))

    def broken(self, value: Any, separator: str) -> Any:
        """A value of JSON with a separator in all spellings, keys included."""
        if isinstance(value, str):
            return self._broken(value, separator)
        if isinstance(value, Mapping):
            return {self.broken(key, separator): self.broken(each, separator) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.broken(each, separator) for each in value]
        return value

    def _broken(self, text: str, separator: str) -> str:
        if self._whole is None:
            return text
        text = self._whole.sub(lambda found: found[0] + separator, text)
        kept = text.rstrip()
        tails = (kept[-length:].lower() for length in range(1, min(self._longest, len(kept) + 1)))
        if any(tail in self._beginnings for tail in tails):
            text = kept + separator + text[len(kept) :]
        kept = text.lstrip()
        heads = (kept[:length].lower() for length in range(1, min(self._longest, len(kept) + 1)))
        if any(head in self._ends for head in heads) or self._is_inner(kept.rstrip().lower()):
            text = text[: len(text) - len(kept)] + separator + kept
        return text

    def _is_inner(self, text: str) -> bool:
        return 0 < len(text) < self._longest and _is_mark(text) and text in self._all


class SpelledTokens:
    """A tokenizer's special tokens as texts, and an encoder that takes the template's for tokens and no others.

    Args:
        backend: the model's tokenizer.
        named: texts that a model's files call special, beside those that the backend does.
    """

    def __init__(self, backend: tokenizers.Tokenizer, named: Collection[str] = ()) -> None:
        added = backend.get_added_tokens_decoder()
        self._ids = {token.content: index for index, token in added.items() if token.special or token.content in named}
        self.spellings = sorted(self._ids)
        self._backend = backend
        self._own = re.compile(_any_of(self.spellings), re.DOTALL)

    def encode(self, text: str, separator: str) -> list[int]:
        """Token ids of a rendered prompt with separators, without any around it. Other threads run meanwhile."""
        names, renamed, ids = self._renaming
        text = self._own.sub(lambda found: names[found[0]], text).replace(separator, "")
        [encoded] = renamed.encode_batch([text], add_special_tokens=False)
        token_ids: list[int] = []
        for index, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if index in ids:
                token_ids.append(ids[index])
            elif self._ids.get(text[start:end]) == index:
                token_ids.extend(self._pieces(text[start:end]))
            else:
                token_ids.append(index)
        return token_ids

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer puts before and behind a text."""
        encoded = self._backend.encode("a")
        added = encoded.special_tokens_mask
        num_before, num_behind = added.index(0), added[::-1].index(0)
        return encoded.ids[:num_before], encoded.ids[len(added) - num_behind :]

    def _pieces(self, text: str) -> list[int]:
        """What a special token's spelling is made of, where the model's vocabulary has it as one piece."""
        return [piece.id for part in (text[:1], text[1:]) if part for piece in self._backend.model.tokenize(part)]

    @cached_property
    def _renaming(self) -> tuple[dict[str, str], tokenizers.Tokenizer, dict[int, int]]:
        """The same tokenizer, whose special tokens are spelled otherwise, as no text can: their old spelling is text.

        It shares the model, so it takes no memory. With it, the new spellings, and the ids of its added tokens.
        """
        nonce = "".join(chr(0x100000 + secrets.randbelow(0xFFFE)) for _ in range(5))
        names = {spelling: nonce + chr(0xF0000 + index) for index, spelling in enumerate(self.spellings)}
        renamed = tokenizers.Tokenizer(self._backend.model)
        for part in ("normalizer", "pre_tokenizer"):
            if (same := getattr(self._backend, part)) is not None:
                setattr(renamed, part, same)
        added = sorted(self._backend.get_added_tokens_decoder().items())
        contents = [names.get(token.content, token.content) for _, token in added]
        renamed.add_tokens([_like(token, content) for (_, token), content in zip(added, contents, strict=True)])
        new_ids = map(renamed.token_to_id, contents)
        ids = {new: index for new, (index, _) in zip(new_ids, added, strict=True) if new is not None}
        return names, renamed, ids


def _like(token: tokenizers.AddedToken, content: str) -> tokenizers.AddedToken:
    """An added token that is found and taken from a text as another one is."""
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    # A new spelling is looked for as it is: a normalizer might change it.
    return tokenizers.AddedToken(content, normalized=token.normalized and content == token.content, **flags)


def _texts(value: Any) -> Iterator[str]:
    """All texts of a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key)
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _is_mark(part: str) -> bool:
    """Whether it has a character that words do not have."""
    return not part.replace("-", "_").replace("_", "a").isalnum()


def _beginning_of_any(spellings: Collection[str]) -> str:
    """A pattern of the first character of any spelling, where the rest of it follows: it finds overlapping ones too."""
    rests = _by_first(spellings)
    return "|".join(f"{re.escape(first)}(?={_any_of(rest)})" for first, rest in rests)


def _any_of(texts: Collection[str]) -> str:
    """A pattern of texts, the longest where several begin; it takes time that does not grow with their number."""
    branches = [re.escape(first) + _any_of(rest) for first, rest in _by_first(text for text in texts if text)]
    if "" in texts:
        return f"(?:{'|'.join(branches)})?" if branches else ""
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _by_first(texts: Iterable[str]) -> list[tuple[str, set[str]]]:
    """What follows each first character."""
    rests: dict[str, set[str]] = {}
    for text in texts:
        rests.setdefault(text[0], set()).add(text[1:])
    return sorted(rests.items())
