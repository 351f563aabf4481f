"""What crosses between the engine and the processes that run the model: a plan goes down, a step output comes back.

Both are msgspec structs of plain numbers. Plans are deltas applied in order: the runner keeps each row's tokens and
block table, so a plan's size follows the rows in the step, never the tokens that they hold.
"""

from typing import Literal

import msgspec

from octavo.outputs import BeamCandidates, TokenLogprobs
from octavo.pooling import PoolingParams, PoolingTask
from octavo.sampling_params import SamplingParams
from octavo.structured_outputs import Grammar, ReasoningSection

Task = Literal["generate"] | PoolingTask
"""What a row is for: tokens, or what is pooled of its prompt."""
NO_ADAPTER = 0


class NewRow(msgspec.Struct, frozen=True, array_like=True):
    """A row the runner has not seen: sequence `index` of a request, its prompt and how to sample it. `seed` is the one
    to use."""

    row: int
    index: int
    token_ids: list[int]
    params: SamplingParams
    seed: int
    stop_token_ids: list[int]
    """Tokens that `min_tokens` holds back."""
    num_candidates: int = 0
    """Of a beam: the candidates to give in place of a token. `Plan.chosen` tells which one it was."""
    task: Task = "generate"
    adapter: int = NO_ADAPTER
    """As `Capabilities` numbers them."""
    grammar: Grammar | None = None
    """What its output conforms to."""
    bad_words: list[list[int]] = []
    """Token ids that it does not generate one after another."""
    pooling: PoolingParams | None = None
    """Of tasks that pool: what they ask for."""
    reasoning: ReasoningSection | None = None
    """What its output may begin with, before its grammar does."""
    prediction: list[int] = []
    """Tokens that its output may resemble. They only help to guess."""


class ForkedRow(msgspec.Struct, frozen=True, array_like=True):
    """A row that starts as a copy of `parent`'s tokens and of all that it wants, as sequence `index` of the same
    request."""

    row: int
    parent: int
    index: int


class TableEdit(msgspec.Struct, frozen=True, array_like=True):
    """A change of one row's block table. Edits are applied in the order given: share, then replace, then append."""

    row: int
    appended: list[int]
    """Physical blocks added at the end, as many for each layer group: first all of group 0's. Those behind a window
    group's window may be any."""
    replaced: list[int] = []
    """Copy-on-write: the last logical block's physical block in each group (before appending). Empty where none was
    copied."""
    parent: int = -1
    """Take the first `num_shared` blocks of this row's table (the row's own is empty), or -1."""
    num_shared: int = 0


class Plan(msgspec.Struct, array_like=True):
    """One step. The fields are in the order in which the runner applies them."""

    truncated: list[tuple[int, int]] = []
    """(row, logical blocks): the row's table keeps only its first blocks, as some of its drafts were not accepted."""
    released: list[int] = []
    """Rows that lose their blocks (preempted) but keep their tokens."""
    removed: list[int] = []
    """Rows whose sequence is over; their ids may come again in `added`."""
    added: list[NewRow] = []
    forked: list[ForkedRow] = []
    chosen: list[tuple[int, int]] = []
    """(row, token): what a beam search chose for a row, added to its tokens."""
    tables: list[TableEdit] = []
    swap_out: list[tuple[int, int]] = []
    """(block, block of the swap space): moved out before anything else is written."""
    swap_in: list[tuple[int, int]] = []
    """(block of the swap space, block): moved back next."""
    copies: list[tuple[int, int]] = []
    """(source, destination) blocks, copied before any KV is written."""
    rows: list[int] = []
    """The rows with new tokens in this step, columns with the next two."""
    starts: list[int] = []
    """How many of the row's tokens have their KV already."""
    num_new: list[int] = []
    """How many are computed now."""
    sampled_rows: list[int] = []
    """The rows that get a token in this step…"""
    logits_from: list[int] = []
    """…and for each the index in `rows` whose last position gives its logits (a fork's first token comes from its
    parent)."""
    drafts: list[tuple[int, list[int]]] = []
    """(index in `rows`, tokens): the row's last new tokens are guesses. Each position from the one before them on gives
    logits, and a draft is accepted where it is the token that is sampled there."""
    scored: list[int] = []
    """Indices in `rows` whose prompt positions are scored for prompt_logprobs."""
    pooled: list[int] = []
    """Indices in `rows` whose prompts end with this step and are pooled: those rows get no token."""

    @property
    def touched_rows(self) -> set[int]:
        """The rows that get anything in this step: states, tokens, or their beginning."""
        begun = [*(new.row for new in self.added), *(fork.row for fork in self.forked)]
        return {*self.rows, *self.sampled_rows, *begun, *(row for row, _ in self.chosen)}

    @property
    def num_drafts(self) -> int:
        """Of all rows."""
        return sum(len(token_ids) for _, token_ids in self.drafts)

    @property
    def decodes(self) -> bool:
        """Whether all that it does is to give each of its rows a token, or several with drafts."""
        is_sampled = len(self.rows) == len(self.sampled_rows) > 0
        return is_sampled and sum(self.num_new) == len(self.rows) + self.num_drafts

    @property
    def is_empty(self) -> bool:
        """True where nothing is computed and nothing changes for the runner."""
        return not self.rows and self == Plan()


class StepOutput(msgspec.Struct, array_like=True):
    """What one step gave."""

    token_ids: list[list[int]]
    """For each of the plan's `sampled_rows` its new tokens: none for a beam, else its accepted drafts and one more."""
    logprobs: list[list[TokenLogprobs] | None] = []
    """For each of `sampled_rows`, one entry a token, or None where not asked for. Empty where no row asked."""
    prompt_logprobs: list[list[TokenLogprobs]] = []
    """For each of the plan's `scored` rows: entry i is about the token at position `start + i + 1`."""
    candidates: list[tuple[int, BeamCandidates]] = []
    """(index in `sampled_rows`, what may come next) of each row that is a beam."""
    pooled: list[bytes] = []
    """For each of the plan's `pooled` rows its numbers, as `pooling.numbers` reads them; none of a row that failed."""
    drafts: list[list[int]] = []
    """For each of `sampled_rows`, guesses at the tokens that follow those given. Empty where nothing is guessed."""
    faults: list[tuple[int, str]] = []
    """(row, what went wrong) of each row that failed in a step that went well for the others."""
    compute_s: float = 0.0
    """Seconds that the step took without its moves."""
    move_s: float = 0.0
    """Seconds that its swaps took."""
