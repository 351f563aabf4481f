"""The grammars that an executor knows, and what makes masks of them. Plain data and names until an executor starts."""

import pkgutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from octavo.errors import ConfigError
from octavo.structured_outputs import Grammar

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


class Matcher(Protocol):
    """Follows one output through a grammar."""

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by some tokens. They may be others than the masks before them allow: a draft's, or the token that a row
        ends with for which there was nothing to choose. What later masks allow is of no consequence then."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTokens:
    """What following a grammar takes of a model."""

    vocab_size: int
    """The model's: its tokenizer may have fewer tokens, or more."""
    eos_token_ids: frozenset[int] = frozenset()
    load_tokenizer: "Callable[[], Tokenizer] | None" = None
    """For grammars of text: called once, when the first comes."""
    num_threads: int = 1
    """That masks may be made on."""


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
        self._compiled: OrderedDict[Grammar, Future[Matcher]] = OrderedDict()
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="grammars")

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(self._followers)

    def prepare(self, grammar: Grammar) -> Future[Matcher]:
        """Begin to compile a grammar whose kind is known, beside whatever goes on, unless it is there already."""
        compiled = self._compiled.pop(grammar, None)
        if compiled is None:
            compiled = self._begin(self._followers[grammar.kind].compile, grammar)
        self._compiled[grammar] = compiled
        while len(self._compiled) > NUM_COMPILED:
            self._compiled.popitem(last=False)
        return compiled

    def matcher(self, grammar: Grammar) -> Matcher:
        """One that has consumed nothing. Its kind must be known."""
        return self.prepare(grammar).result().copy()

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

    def _begin(self, compile_: Callable[[Grammar], Matcher], grammar: Grammar) -> Future[Matcher]:
        before = threading.stack_size(COMPILER_STACK_BYTES)  # of the thread, which starts with the first grammar
        try:
            return self._compiling.submit(compile_, grammar)
        finally:
            threading.stack_size(before)


NO_GRAMMARS = Grammars({}, ModelTokens(vocab_size=0))


def _imported(kind: str, name: str) -> Callable[[ModelTokens], Follower]:
    try:
        maker: Callable[[ModelTokens], Follower] = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"grammars of kind {kind!r} cannot be imported from {name!r}: {error}") from error
    return maker
