"""The grammars that an executor knows, and what makes masks of them. Plain data and names until an executor starts."""

import pkgutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from octavo.errors import ConfigError, RequestError
from octavo.sampling.reasoning import MarkedTokens, OutputMatcher, SectionMarks
from octavo.structured_outputs import Grammar, ReasoningSection

if TYPE_CHECKING:
    from octavo.tokenization.tokenizer import Tokenizer

BUILT_IN: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        ("json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"),
        "octavo.sampling.guidance:Guidance",
    )
)
"""By kind, where what follows its grammars is imported from: "package.module:class", made of a model's tokens."""
NUM_COMPILED = 64
"""Grammars that are kept compiled, those used last: most requests bring one that came before."""
COMPILER_STACK_BYTES = 32 * 2**20
"""Of the thread that compiles: compilers recurse, and the process that a server tries grammars in has less."""


Key = TypeVar("Key")
Made = TypeVar("Made")


class Matcher(Protocol):
    """Follows one output through a grammar."""

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by some tokens. They may be others than the masks before them allow: a draft's, or the token that a row
        ends with for which there was nothing to choose. What later masks allow is of no consequence then."""
        ...

    @property
    def is_lost(self) -> bool:
        """What it has consumed has left the grammar."""
        ...

    def forced(self) -> list[int]:
        """Tokens that come next, one after another, as the grammar leaves no choice; none where that is not known."""
        ...

    def copy(self) -> "Matcher":
        """Another one that has consumed the same tokens."""
        ...


class Follower(Protocol):
    """Compiles grammars of some kinds, and makes the masks of its matchers."""

    def compile(self, grammar: Grammar) -> Matcher:
        """One that has consumed nothing. Called in a thread of its own, while masks are made in another."""
        ...

    def masks(self, matchers: Sequence[Any]) -> list[bytes]:
        """The tokens that may come next after each of its matchers, a bit for each token, lowest bit first; those past
        the end may not. A mask follows from the grammar and the tokens consumed and from nothing else. Where the output
        may end, the end-of-sequence tokens are among them."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelTokens:
    """What following an output takes of a model."""

    vocab_size: int
    """The model's: its tokenizer may have fewer tokens, or more."""
    eos_token_ids: frozenset[int] = frozenset()
    load_tokenizer: "Callable[[], Tokenizer] | None" = None
    """For grammars of text, and for reasoning sections: called when the first comes."""
    num_threads: int = 1
    """That masks may be made on."""

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The model's.

        Raises:
            RequestError: it is not known.
        """
        if self.load_tokenizer is None:
            raise RequestError("this model's tokenizer is not known, so no text can be followed")
        return self.load_tokenizer()

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Of each of the model's tokens; none of one that stands for no text. Raises as `tokenizer`."""
        known = self.tokenizer.grammar_tokens()[: self.vocab_size]
        return [*known, *[b""] * (self.vocab_size - len(known))]

    @cached_property
    def marked(self) -> MarkedTokens:
        """The same tokens, for reasoning sections. Raises as `tokenizer`."""
        return MarkedTokens(self.token_bytes)


class Grammars:
    """The kinds of grammars that an executor knows, and its compiled grammars.

    Args:
        kinds: where the `Follower` of each kind is imported from, "package.module:class": so every process of an
            executor finds it.
        tokens: what each is made of.

    Raises:
        ConfigError: one cannot be imported.
    """

    def __init__(self, kinds: Mapping[str, str], tokens: ModelTokens) -> None:
        makers = {name: _imported(kind, name) for kind, name in kinds.items()}
        followers = {name: maker(tokens) for name, maker in makers.items()}
        self._followers: dict[str, Follower] = {kind: followers[name] for kind, name in kinds.items()}
        self._tokens = tokens
        self._compiled: OrderedDict[Grammar, Future[Matcher]] = OrderedDict()
        self._marks: OrderedDict[ReasoningSection, Future[SectionMarks]] = OrderedDict()
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(self._followers)

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[Any]:
        """Begin to compile a grammar whose kind is known, or to look for a section's marks, beside whatever goes on,
        unless that is there already."""
        return self._matcher(wanted) if isinstance(wanted, Grammar) else self._marks_of(wanted)

    def follow(self, grammar: Grammar | None, section: ReasoningSection | None) -> OutputMatcher:
        """What follows an output, from its beginning. The grammar's kind must be known."""
        return OutputMatcher(
            None if grammar is None else self._matcher(grammar).result(),
            None if section is None else self._marks_of(section).result(),
        )

    def masks(self, asked: Sequence[tuple[Grammar, Matcher]]) -> list[bytes]:
        """As `Follower.masks`, of matchers of any grammars."""
        by_follower: dict[Follower, list[int]] = {}
        for index, (grammar, _) in enumerate(asked):
            by_follower.setdefault(self._followers[grammar.kind], []).append(index)
        masks = [b""] * len(asked)
        for follower, indices in by_follower.items():
            made = follower.masks([asked[index][1] for index in indices])
            for index, mask in zip(indices, made, strict=True):
                masks[index] = mask
        return masks

    def _matcher(self, grammar: Grammar) -> Future[Matcher]:
        return self._begun(self._compiled, grammar, lambda: self._followers[grammar.kind].compile(grammar))

    def _marks_of(self, section: ReasoningSection) -> Future[SectionMarks]:
        return self._begun(self._marks, section, lambda: SectionMarks.of(section, self._tokens.marked))

    def _begun(self, known: OrderedDict[Key, Future[Made]], key: Key, make: Callable[[], Made]) -> Future[Made]:
        """What is made of this key, now or before."""
        made = known.pop(key, None)
        if made is None:
            before = threading.stack_size(COMPILER_STACK_BYTES)  # of the thread, which starts with the first
            try:
                made = self._compiling.submit(make)
            finally:
                threading.stack_size(before)
        known[key] = made
        while len(known) > NUM_COMPILED:
            known.popitem(last=False)
        return made


NO_GRAMMARS = Grammars({}, ModelTokens(vocab_size=0))


def _imported(kind: str, name: str) -> Callable[[ModelTokens], Follower]:
    try:
        maker: Callable[[ModelTokens], Follower] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"grammars of kind {kind!r} cannot be imported from {name!r}: {error}") from error
    return maker
