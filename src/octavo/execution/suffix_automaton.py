"""What of a text has come before: its longest suffix that also ends earlier, kept up token by token."""


class SuffixAutomaton:
    """The suffix automaton of a text that grows (Blumer et al., "The smallest automaton recognizing the subwords of a
    text", 1985). A token takes constant time, amortized, and at most two states: some 400 bytes.

    A state stands for the substrings that end at the same positions. Its link is the state of its longest suffix that
    ends elsewhere as well. So the link of the whole text's state is what has come before.
    """

    __slots__ = ("_ends", "_last", "_lengths", "_links", "_next", "follows", "match_length", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.match_length = 0
        """Tokens of the longest suffix that also ends earlier; 0 where the last token is new."""
        self.follows = 0
        """The position behind where that ended earlier: the text went on there with the token at this position."""
        self._lengths = [0]
        """Of each state's longest substring."""
        self._links = [-1]
        self._ends = [0]
        """Behind one place where each state's substrings end: the latest that was a match, or else the first."""
        self._next: list[dict[int, int]] = [{}]
        """For each state, the states of its substrings with one token more."""
        self._last = 0
        """The whole text's state."""

    def append(self, token: int) -> None:
        """Add a token to the text."""
        links, nexts = self._links, self._next
        self.tokens.append(token)
        at, link = self._last, 0
        self._last = whole = self._add_state(len(self.tokens), 0, len(self.tokens), {})
        while at >= 0:
            own = nexts[at]
            if token in own:
                link = own[token]
                if self._lengths[link] != self._lengths[at] + 1:
                    link = self._split(at, token)
                break
            own[token] = whole
            at = links[at]
        links[whole] = link
        self.match_length, self.follows = self._lengths[link], self._ends[link]
        self._ends[link] = len(self.tokens)

    def _split(self, at: int, token: int) -> int:
        """A state of their own for the substrings of `at` with a token more: they are about to end where the longer
        ones of their state do not."""
        longer = self._next[at][token]
        shorter = self._add_state(
            self._lengths[at] + 1, self._links[longer], self._ends[longer], self._next[longer].copy()
        )
        self._links[longer] = shorter
        while at >= 0 and self._next[at].get(token) == longer:
            self._next[at][token] = shorter
            at = self._links[at]
        return shorter

    def _add_state(self, length: int, link: int, end: int, following: dict[int, int]) -> int:
        self._lengths.append(length)
        self._links.append(link)
        self._ends.append(end)
        self._next.append(following)
        return len(self._lengths) - 1
