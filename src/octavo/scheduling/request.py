"""A request: what its sequences have in common, and what the scheduler knows of it between steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

import msgspec

from octavo.execution.plan import NO_ADAPTER
from octavo.memory import BlockTable, Demand
from octavo.outputs import DraftUse, MemoryUse, TokenLogprobs
from octavo.scheduling.beam_search import BeamSearch
from octavo.scheduling.messages import EngineRequest, RequestUpdate
from octavo.scheduling.sequence import NO_ROW, SequenceState, common_tokens


class RequestState(Enum):
    WAITING = "waiting"
    """Holds no blocks of the pool: not yet admitted, or preempted."""
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class PromptScores:
    """The log-probabilities of a prompt's tokens, from the second on."""

    num_prompt: int
    num_planned: int = 0
    """Of them that are there or will be, by steps in flight."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def plan(self, start: int, num_new: int) -> bool:
        """Whether computing `num_new` tokens from `start` on is to give scores not asked for before."""
        end = min(start + num_new, self.num_prompt - 1)
        is_new = end > self.num_planned
        self.num_planned = max(end, self.num_planned)
        return is_new

    def take(self, start: int, scores: list[TokenLogprobs]) -> None:
        """Keep a chunk's scores, those of tokens `start + 1` on; a chunk computed again replaces what it gave
        before."""
        del self.logprobs[start:]
        self.logprobs += scores


NOTHING_HELD: Mapping[SequenceState, int] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Request:
    """A prompt with its sampling parameters and its sequences: the paper's sequence group. Its live sequences run, wait
    and resume together."""

    request_id: str
    prompt_token_ids: list[int]
    message: EngineRequest
    max_len: int
    """Tokens of a finished sequence at most: the prompt and max_tokens."""
    stop_token_ids: frozenset[int]
    """End-of-sequence (unless ignored) and the request's own."""
    rank: tuple[float, int] = (0.0, 0)
    """Its place among all requests, the lowest first: by the policy, then by arrival."""
    adapter: int = NO_ADAPTER
    """The number under which the executor knows its adapter."""
    search: BeamSearch | None = None
    """Chooses the tokens where the request asks for beams. Its sequences are the beams then, one at first."""
    sequences: list[SequenceState] = field(default_factory=list)
    """Those not finished. A sequence's parent stands before it."""
    later: list[int] = field(default_factory=list)
    """The indices of samples beyond those that may run at once: they begin when `sequences` are over."""
    state: RequestState = RequestState.WAITING
    is_decoding: bool = False
    """Every sequence has all its states but its last token's, in its table, its parent's or the saved one: one token
    each makes the next step. Set when a step that samples is planned."""
    prefix_root: bytes | None = None
    """Where its blocks' digests begin; None where the prefix cache takes none of its blocks."""
    pinned_digests: list[bytes] = field(default_factory=list)
    """Of the pinned blocks that its prompt begins with."""
    first_scheduled_s: float | None = None
    memory_use: MemoryUse = field(default_factory=MemoryUse)
    draft_use: DraftUse = field(default_factory=DraftUse)
    reads_cache: bool = True
    """It may begin with blocks that others have computed."""
    is_computed_whole: bool = False
    """Its prompt is computed in one step."""
    is_speculated: bool = False
    """Drafts may come for it, which go on from its latest token."""
    drafts: dict[SequenceState, list[int]] = field(default_factory=dict)
    """Guesses at its sequences' next tokens, for the next step."""
    num_lost_tokens: int = 0
    """Token states given up by preemptions; counted and forgotten when it is admitted again."""
    scores: PromptScores | None = None
    """Its prompt_logprobs, where it asks for them."""
    is_reported: bool = False
    """An update has gone out, and with the first the prompt_logprobs."""

    @classmethod
    def create(
        cls,
        message: EngineRequest,
        max_tokens: int,
        eos_token_ids: frozenset[int],
        num_at_once: int,
        new_table: Callable[[int], BlockTable],
    ) -> "Request":
        """A waiting request, of which at most `num_at_once` samples run at once."""
        params, num_prompt = message.params, len(message.prompt_token_ids)
        request = cls(
            request_id=message.request_id,
            prompt_token_ids=message.prompt_token_ids,
            message=message,
            max_len=num_prompt + max_tokens,
            stop_token_ids=frozenset(params.stop_token_ids or ())
            | (frozenset() if params.ignore_eos else eos_token_ids),
        )
        if params.prompt_logprobs is not None:
            request.scores, request.reads_cache = PromptScores(num_prompt), False  # each needs its token's state
        if params.beams is not None:
            request.search = BeamSearch(params.beams, max_tokens, request.stop_token_ids)
        request.later = list(range(params.n if request.search is None else 1))
        request.begin_later(num_at_once, new_table)
        return request

    def begin_later(self, num_at_once: int, new_table: Callable[[int], BlockTable]) -> None:
        """Wait with the next samples: the first of them will compute the prompt, the others fork from it. Nothing else
        of the request may be left."""
        begun, self.later = self.later[:num_at_once], self.later[num_at_once:]
        num_prompt = len(self.prompt_token_ids)
        for index in begun:
            sequence = SequenceState(self, index, new_table(self.max_len), num_prompt)
            if self.sequences:
                sequence.parent, sequence.fork_at = self.sequences[0], num_prompt
            self.sequences.append(sequence)
        self.state, self.is_decoding = RequestState.WAITING, False

    @property
    def num_places(self) -> int:
        """Sequences that are counted for it in a step: a search may come to its whole width."""
        if self.search is None or not self.sequences:
            return len(self.sequences)
        return self.message.params.num_sequences

    @property
    def is_running(self) -> bool:
        return self.state is RequestState.RUNNING

    @property
    def has_begun(self) -> bool:
        """Whether it has ever run: then executors know it."""
        return any(sequence.row != NO_ROW for sequence in self.sequences)

    @property
    def is_pooled(self) -> bool:
        """Whether its prompt is pooled, and nothing is sampled."""
        return self.message.task != "generate"

    @property
    def waits_for_results(self) -> bool:
        """Whether the next step depends on tokens of steps still in flight: a search's choice, which drafts were
        accepted, or having reached the longest length."""
        first = self.sequences[0]
        needs_tokens = self.search is not None or self.is_speculated
        return first.num_tokens >= self.max_len or (needs_tokens and first.has_unseen_token)

    def num_blocks_missing(self, demand: Demand) -> int:
        """Blocks to allocate until every sequence of a running request is ready to sample."""
        return demand.missing(self.num_logical_blocks_missing(demand.block_size), len(self.sequences))

    def num_logical_blocks_missing(self, block_size: int, held: Mapping[SequenceState, int] = NOTHING_HELD) -> int:
        """Logical blocks to allocate until every sequence is ready to sample, each distinct block once.

        A block that is shared while partly filled counts for each sharer: all of them write to it next.

        Args:
            held: logical blocks that some sequences are about to hold, instead of what they hold now.
        """
        missing = 0
        for sequence in self.sequences:
            num_held = held.get(sequence)
            if num_held is None:
                num_held = sequence.fork_at // block_size if sequence.parent else sequence.table.num_blocks
            missing += -(-sequence.num_tokens // block_size) - num_held
        return missing

    def begin_update(self) -> RequestUpdate:
        """An update without sequences yet; the first one carries the prompt_logprobs."""
        prompt_logprobs = None if self.scores is None or self.is_reported else self.scores.logprobs
        self.is_reported = True
        return RequestUpdate(
            self.request_id,
            [],
            prompt_logprobs,
            self.first_scheduled_s,
            self.memory_use,
            self.draft_use,
        )

    def note(self, **changes: int) -> None:
        """Add to what the request is told of its memory."""
        added = {name: getattr(self.memory_use, name) + amount for name, amount in changes.items()}
        self.memory_use = msgspec.structs.replace(self.memory_use, **added)

    def common_prefixes(self, block_size: int) -> list[tuple[SequenceState, SequenceState | None, int]]:
        """How the sequences that hold blocks could share them: (sequence, an earlier one, the tokens whose states are
        the same in both).

        The tokens are whole blocks, or all that the sequence has states of; without any there is no earlier one.
        """
        holders = [sequence for sequence in self.sequences if sequence.parent is None]
        found = []
        for place, sequence in enumerate(holders):
            best, most = None, 0
            for earlier in holders[:place]:
                num_common = common_tokens(sequence, earlier)
                if num_common < sequence.table.num_tokens:
                    num_common -= num_common % block_size
                if num_common > most:
                    best, most = earlier, num_common
            found.append((sequence, best, most))
        return found

    def num_distinct_tokens(self, block_size: int) -> int:
        """Token states that the sequences hold, those that are the same counted once."""
        return sum(sequence.table.num_tokens - common for sequence, _, common in self.common_prefixes(block_size))

    def forget_blocks(self, block_size: int) -> None:
        """Note how the sequences share their states, so that each distinct block is rebuilt once; the caller frees the
        tables. `num_lost_tokens` says how many tokens' states are lost."""
        for sequence, parent, num_common in self.common_prefixes(block_size):
            self.num_lost_tokens += sequence.table.num_tokens - num_common
            if parent is not None:
                sequence.parent, sequence.fork_at = parent, num_common
        self.is_decoding = False

    def fork_limits(self) -> dict[SequenceState, int]:
        """The fewest tokens at which another sequence is to fork from one; of those only from which any is."""
        limits: dict[SequenceState, int] = {}
        for child in self.sequences:
            if child.parent is not None:
                limits[child.parent] = min(child.fork_at, limits.get(child.parent, child.fork_at))
        return limits

    def remove(self, sequence: SequenceState, can_fork: Callable[[BlockTable, int], bool]) -> None:
        """Take a finished sequence out; those that were to fork from it fork from its parent, or else from the first of
        them, which starts over.

        Args:
            can_fork: whether a table still holds what a fork behind so many of its tokens needs.
        """
        self.sequences.remove(sequence)
        self.drafts.pop(sequence, None)
        heir, num_shared = (sequence.parent, sequence.fork_at) if sequence.parent else (None, self.max_len)
        for child in self.sequences:
            if child.parent is not sequence:
                continue
            child_shared = child.fork_at
            child.parent, child.fork_at = heir, min(child_shared, num_shared) if heir else 0
            if heir is None:
                heir, num_shared = child, child_shared
            elif not can_fork(heir.table, child.fork_at):
                child.parent, child.fork_at = None, 0
