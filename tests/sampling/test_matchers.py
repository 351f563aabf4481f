"""A row's mask follows from its grammar and its tokens, whatever its matcher has been through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo.errors import ConfigError
from octavo.sampling.grammars import Grammars, ModelTokens
from octavo.sampling.matchers import RowMatchers
from octavo.structured_outputs import Grammar
from toy_grammars import KINDS, ToyMatcher, bits

VOCAB = 20
TOKENS = ModelTokens(vocab_size=VOCAB)
EVEN, ODD = bits(range(0, VOCAB, 2), VOCAB), bits(range(1, VOCAB, 2), VOCAB)
ALTERNATING = Grammar("alternating")
THREES = Grammar("multiples", "3")


@pytest.fixture
def matchers() -> RowMatchers:
    ToyMatcher.num_consumed = 0
    return RowMatchers(Grammars(KINDS, TOKENS))


def output(*token_ids: int) -> np.ndarray:
    return np.array(token_ids, np.int32)


def mask(matchers: RowMatchers, row: int, *token_ids: int) -> bytes | None:
    return matchers.row_masks(row, output(*token_ids))[0]


def test_only_rows_with_a_grammar_have_masks_each_behind_its_own_tokens_and_drafts(matchers: RowMatchers) -> None:
    tokens = {0: [4, 5], 1: [4, 6, 7], 2: [5], 3: []}
    matchers.set_row(0, None)
    matchers.set_row(1, ALTERNATING)
    matchers.set_row(2, ALTERNATING)
    matchers.set_row(3, THREES)

    def history(row: int, num_generated: int) -> tuple[np.ndarray, np.ndarray]:
        return output(9, 9), output(*tokens[row][:num_generated])

    rows, positions = np.array([3, 2, 0, 0, 1, 1, 1]), np.array([0, 1, 1, 2, 1, 2, 3])
    threes = bits(range(0, VOCAB, 3), VOCAB)
    assert matchers.masks(rows, positions, history) == [(0, threes), (1, EVEN), (4, ODD), (5, ODD), (6, EVEN)]
    assert ToyMatcher.num_consumed == 1 + 1 + 2
    assert matchers.masks(np.array([0]), np.array([1]), history) == []


def test_each_token_is_consumed_once(matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    for length in range(10):
        mask(matchers, 0, *range(length))
    assert ToyMatcher.num_consumed == 9


def test_drafts_are_followed_and_leave_nothing_behind(matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    assert matchers.row_masks(0, output(1), [2, 3, 5]) == [EVEN, ODD, EVEN, EVEN]
    assert matchers.row_masks(0, output(1), [3]) == [EVEN, EVEN]
    assert mask(matchers, 0, 1, 2) == ODD
    assert ToyMatcher.num_consumed == 6, "drafts are consumed by a copy"


def test_a_fork_goes_on_where_its_parent_is(matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    mask(matchers, 0, 1, 2, 3)
    matchers.copy_row(0, 1)
    assert ToyMatcher.num_consumed == 3
    assert (mask(matchers, 0, 1, 2, 3, 4), mask(matchers, 1, 1, 2, 3, 5)) == (ODD, EVEN)
    assert ToyMatcher.num_consumed == 5


def test_what_a_preemption_drops_is_made_again_from_the_tokens(matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    mask(matchers, 0, 1, 2)
    matchers.drop_state(0)
    assert mask(matchers, 0, 1, 2, 3) == EVEN
    assert ToyMatcher.num_consumed == 5


def test_a_row_used_again_keeps_nothing_of_the_one_before(matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    mask(matchers, 0, 1)
    matchers.set_row(0, None)
    matchers.set_row(1, THREES)
    matchers.copy_row(0, 1)
    matchers.clear_row(7)
    assert not matchers.has_any(np.arange(4))


def test_a_matcher_that_has_failed_is_not_met_again(monkeypatch: pytest.MonkeyPatch, matchers: RowMatchers) -> None:
    matchers.set_row(0, ALTERNATING)
    mask(matchers, 0, 1)
    consume = ToyMatcher.consume

    def consume_and_fail(matcher: ToyMatcher, token_ids: list[int]) -> None:
        consume(matcher, token_ids)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ToyMatcher, "consume", consume_and_fail)
        with pytest.raises(MemoryError):
            mask(matchers, 0, 1, 2)
    assert mask(matchers, 0, 1) == EVEN


@given(st.lists(st.tuples(st.lists(st.integers(0, VOCAB - 1)), st.lists(st.integers(0, VOCAB - 1), max_size=3))))
def test_a_mask_is_a_function_of_the_tokens(asked: list[tuple[list[int], list[int]]]) -> None:
    matchers = RowMatchers(Grammars(KINDS, TOKENS))
    changing = Grammar("changing", "5")
    matchers.set_row(0, changing)
    tokens: list[int] = []
    for more, drafts in asked:
        tokens += more
        alone = RowMatchers(Grammars(KINDS, TOKENS))
        alone.set_row(0, changing)
        expected = [mask(alone, 0, *tokens, *drafts[:count]) for count in range(len(drafts) + 1)]
        assert matchers.row_masks(0, output(*tokens), drafts) == expected


@pytest.mark.parametrize("name", ["nowhere:maker", "toy_grammars:nothing", "toy grammars"])
def test_a_kind_that_cannot_be_imported_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"kind 'odd' .* '{name}'"):
        Grammars({"odd": name}, TOKENS)
