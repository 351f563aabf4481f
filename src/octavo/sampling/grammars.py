"""The grammars that an executor knows, and what makes masks of them. Plain data and names until an executor starts."""

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

from octavo.errors import ConfigError
from octavo.sampling_params import Grammar

BUILT_IN: Mapping[str, str] = MappingProxyType({})
"""By kind, where its `MatcherMaker` is imported from: "package.module:function". There is none yet."""
NUM_COMPILED = 64
"""Grammars that are kept compiled, those used last: most requests bring one that came before."""


class Matcher(Protocol):
    """Follows one output through a grammar."""

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by some tokens. They may be others than the masks before them allow: a draft's, or the token that a row
        ends with for which there was nothing to choose. What later masks allow is of no consequence then."""
        ...

    def mask(self) -> bytes:
        """The tokens that may come next, a bit for each, lowest bit first; those past the end may not. It follows from
        the tokens consumed and from nothing else. Where the output may end, end-of-sequence is among them."""
        ...

    def copy(self) -> "Matcher":
        """Another one that has consumed the same tokens."""
        ...


MatcherMaker = Callable[[str, int], Matcher]
"""From the source of a grammar of one kind, and the size of the vocabulary, to a matcher that has consumed nothing."""


class Grammars:
    """The kinds of grammars that an executor knows, and its compiled grammars.

    Args:
        kinds: where the `MatcherMaker` of each kind is imported from, "package.module:function": so every process of an
            executor finds it.
        vocab_size: the model's.

    Raises:
        ConfigError: one cannot be imported.
    """

    def __init__(self, kinds: Mapping[str, str], vocab_size: int) -> None:
        self._makers = {kind: _imported(kind, name) for kind, name in kinds.items()}
        self._vocab_size = vocab_size
        self._compiled = lru_cache(NUM_COMPILED)(self._compile)

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(self._makers)

    def matcher(self, grammar: Grammar) -> Matcher:
        """One that has consumed nothing. Its kind must be known."""
        return self._compiled(grammar).copy()

    def _compile(self, grammar: Grammar) -> Matcher:
        return self._makers[grammar.kind](grammar.source, self._vocab_size)


NO_GRAMMARS = Grammars({}, 0)


def _imported(kind: str, name: str) -> MatcherMaker:
    try:
        maker: MatcherMaker = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"grammars of kind {kind!r} cannot be imported from {name!r}: {error}") from error
    return maker
