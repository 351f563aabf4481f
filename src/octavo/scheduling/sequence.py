"""A sequence: one stream of tokens of a request, and where its states are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from octavo.memory import BlockTable, chain_digest
from octavo.outputs import FinishReason
from octavo.scheduling.messages import SequenceUpdate

if TYPE_CHECKING:
    from octavo.scheduling.request import Request

NO_ROW = -1


@dataclass(slots=True, eq=False)
class SequenceState:
    """One stream of tokens. The runner knows it as `row`, once it has one.

    While `parent` is set the sequence has no blocks of its own yet: it waits until `parent` holds the states of the
    first `fork_at` tokens, which are the same in both, and forks from it. So sampling n sequences and rebuilding them
    after a preemption are one thing.
    """

    request: "Request"
    index: int
    table: BlockTable
    num_tokens: int
    """Prompt and output tokens, those of steps still in flight included."""
    parent: "SequenceState | None" = None
    fork_at: int = 0
    row: int = NO_ROW
    output_token_ids: list[int] = field(default_factory=list)
    """They only ever grow."""
    finish_reason: FinishReason | None = None
    saved: BlockTable | None = None
    """Its blocks in the swap space, while the request is preempted by swap."""
    digests: list[bytes] = field(default_factory=list)
    """Of the content of its first blocks, as far as anyone has asked."""
    rank: int = 0
    """A beam's place in its search."""

    @property
    def num_computed(self) -> int:
        """Tokens whose states exist, or will once the sequence has forked."""
        return self.table.num_tokens if self.parent is None else self.fork_at

    @property
    def num_pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.num_tokens - self.num_computed

    @property
    def num_known_tokens(self) -> int:
        """Prompt and output tokens that have been seen."""
        return len(self.request.prompt_token_ids) + len(self.output_token_ids)

    @property
    def has_unseen_token(self) -> bool:
        return self.num_tokens > self.num_known_tokens

    def follow(self, parent: "SequenceState", block_size: int) -> None:
        """The sequence has forked: it waits for its parent no more, and knows what their common blocks are called."""
        if len(self.digests) * block_size < self.fork_at:
            self.digests = parent.digests[: self.fork_at // block_size]
        self.parent = None

    def take_tokens(self, update: SequenceUpdate) -> bool:
        """Add a step's tokens; the sequence ends at the first that stops it, or at its longest.

        Args:
            update: tells the tokens, and is told how the sequence ended and with which of them.

        Returns:
            Whether it ended.
        """
        request, outputs = self.request, self.output_token_ids
        most = request.max_len - len(request.prompt_token_ids)
        for count, token in enumerate(update.token_ids, 1):
            outputs.append(token)
            if token in request.stop_token_ids and len(outputs) > request.message.params.min_tokens:
                update.finish_reason = "stop"
                update.stop_token_id = token if token in (request.message.params.stop_token_ids or ()) else None
            elif len(outputs) >= most:
                update.finish_reason = "length"
            else:
                continue
            update.token_ids = update.token_ids[:count]
            update.logprobs = update.logprobs and update.logprobs[:count]
            return True
        return False

    def keep_drafts(self, token_ids: list[int]) -> None:
        """Keep guesses at its next tokens for the next step: no more than can be accepted before its longest length, as
        one more token is always sampled."""
        request = self.request
        num_drafts = min(len(token_ids), request.max_len - self.num_tokens - 1)
        if num_drafts > 0 and request.is_speculated and request.is_decoding and request.is_running:
            request.drafts[self] = token_ids[:num_drafts]

    def names_for(self, block_size: int) -> Callable[[int], Sequence[bytes]]:
        """What its full blocks may be called in the prefix index: first in a pinned chain, then in its own."""
        pinned = self.request.pinned_digests

        def names(logical: int) -> Sequence[bytes]:
            own = () if self.request.prefix_root is None else (self.digest(logical, block_size),)
            return (pinned[logical], *own) if logical < len(pinned) else own

        return names

    def digest(self, logical: int, block_size: int) -> bytes:
        """What the content of logical block `logical`, all of whose tokens are known, is called in the prefix index.
        The request must have a `prefix_root`."""
        digests = self.digests
        while len(digests) <= logical:
            parent = digests[-1] if digests else self.request.prefix_root
            if parent is None:
                raise ValueError("a request without a prefix root has no digests")
            start = len(digests) * block_size
            digests.append(chain_digest(parent, self._tokens(start, start + block_size)))
        return digests[logical]

    def _tokens(self, start: int, stop: int) -> list[int]:
        """Its tokens from position `start` to before `stop`."""
        prompt = self.request.prompt_token_ids
        if stop <= len(prompt):
            return prompt[start:stop]
        offset = max(0, start - len(prompt))
        return prompt[start:] + self.output_token_ids[offset : stop - len(prompt)]


def common_tokens(a: SequenceState, b: SequenceState) -> int:
    """Leading tokens that are the same in two sequences of a request, and whose states both have."""
    num_prompt = len(a.request.prompt_token_ids)
    limit = min(a.table.num_tokens, b.table.num_tokens, a.num_known_tokens, b.num_known_tokens)
    if limit <= num_prompt:
        return limit
    low, high = 0, limit - num_prompt
    while low < high:
        middle = (low + high + 1) // 2
        if a.output_token_ids[:middle] == b.output_token_ids[:middle]:
            low = middle
        else:
            high = middle - 1
    return num_prompt + low
