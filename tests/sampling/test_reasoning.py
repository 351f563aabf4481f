"""What comes before a reasoning section's end is masked by nothing but the section's bound, and what comes behind it by
the grammar alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.errors import RequestError
from octavo.sampling.grammars import BUILT_IN, Grammars, ModelTokens
from octavo.sampling.matchers import RowMatchers
from octavo.structured_outputs import Grammar, ReasoningSection
from octavo.tokenization import reasoning_marks
from octavo.tokenization.reasoning_marks import reasoning_section, section_behind
from octavo.tokenization.tokenizer import Tokenizer

EOS = 2
RED = Grammar("regex", "red|blue")


@pytest.fixture(scope="module")
def grammars(byte_level: Tokenizer) -> Grammars:
    size = byte_level.vocab_size + 10
    return Grammars(
        BUILT_IN, ModelTokens(vocab_size=size, eos_token_ids=frozenset({EOS}), load_tokenizer=lambda: byte_level)
    )


def section(tokenizer: Tokenizer, is_open: bool = True, max_tokens: int | None = None) -> ReasoningSection:
    return reasoning_section(tokenizer, "<think>", "</think>", is_open=is_open, max_tokens=max_tokens)


def allowed(
    grammars: Grammars, grammar: Grammar | None, section: ReasoningSection, output: Sequence[int]
) -> set[int] | None:
    """The tokens that may follow an output; None where all may."""
    matchers = RowMatchers(grammars)
    matchers.set_row(0, grammar, section)
    assert matchers.has_any(np.array([0]))
    [mask] = matchers.row_masks(0, np.array(output, np.int32))
    if mask is None:
        return None
    bits = int.from_bytes(mask, "little")
    return {place for place in range(bits.bit_length()) if bits >> place & 1}


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def texts(tokenizer: Tokenizer, token_ids: set[int] | None) -> set[str]:
    assert token_ids is not None
    return {tokenizer.token_text(token_id) for token_id in token_ids}


def test_an_open_section_is_free_and_behind_its_end_the_grammar_begins(
    byte_level: Tokenizer, grammars: Grammars
) -> None:
    thought = encode(byte_level, 'I see: "red" < 3 </thin')
    for count in range(len(thought) + 1):
        assert allowed(grammars, RED, section(byte_level), thought[:count]) is None
    ended = encode(byte_level, "I see.</think>")
    begins = {"r", "re", "red", "b", "bl", "blu", "blue"}
    assert texts(byte_level, allowed(grammars, RED, section(byte_level), ended)) - begins == {"\n"}
    told = [*ended, *encode(byte_level, "\n\n")]
    assert texts(byte_level, allowed(grammars, RED, section(byte_level), told)) <= begins, "two line ends are enough"
    for answer in (ended, told):
        whole = [*answer, *encode(byte_level, "red")]
        assert allowed(grammars, RED, section(byte_level), whole) == {EOS}


def test_an_output_may_think_first_or_conform_at_once(byte_level: Tokenizer, grammars: Grammars) -> None:
    closed = section(byte_level, is_open=False)
    first = allowed(grammars, RED, closed, [])
    assert closed.opening[0] in (first or ())
    assert texts(byte_level, first) - {"<think>"} <= {"r", "re", "red", "b", "bl", "blu", "blue"}
    assert allowed(grammars, RED, closed, closed.opening) is None
    behind = allowed(grammars, RED, closed, [*closed.opening, *encode(byte_level, "hm"), *closed.end])
    assert texts(byte_level, behind) >= {"r", "b", "\n"}
    assert closed.opening[0] not in (allowed(grammars, RED, closed, encode(byte_level, "r")) or ())


def test_an_opening_of_several_tokens_is_told_from_an_answer_that_begins_alike(
    byte_level: Tokenizer, grammars: Grammars
) -> None:
    [less, a, b, more] = (encode(byte_level, character)[0] for character in "<ab>")
    spelled = ReasoningSection(opening=(less, a, more), end=(less, more), is_open=False)
    alike = Grammar("regex", "<b>|c")
    assert texts(byte_level, allowed(grammars, alike, spelled, [])) == {"<", "c"}
    assert texts(byte_level, allowed(grammars, alike, spelled, [less])) == {"a", "b"}
    assert allowed(grammars, alike, spelled, [less, a]) == {more}
    assert allowed(grammars, alike, spelled, [less, a, more]) is None
    assert texts(byte_level, allowed(grammars, alike, spelled, [less, b])) == {">"}
    assert texts(byte_level, allowed(grammars, alike, spelled, [less, a, more, b, less, more])) == {"<", "c", "\n"}


def test_an_end_is_found_however_it_is_spelled_and_no_token_goes_on_past_it(
    byte_level: Tokenizer, grammars: Grammars
) -> None:
    marked = reasoning_section(byte_level, "<think>", "the", is_open=True)
    letters = [encode(byte_level, letter)[0] for letter in "the"]
    assert len(marked.end) == 1

    def held_back(output: list[int]) -> set[str]:
        free = allowed(grammars, RED, marked, output)
        every = set(range(byte_level.vocab_size))
        return set() if free is None else texts(byte_level, every - free)

    assert held_back([]) == {" another", " mother", " other", " then", " there", " these", "other", "ther"}
    assert {"en", "es"} <= held_back(letters[:2])
    assert "e" not in held_back(letters[:2])
    for spelled in (list(marked.end), letters, [letters[0], *letters], encode(byte_level, " the")):
        assert texts(byte_level, allowed(grammars, RED, marked, spelled)) >= {"r", "b", "\n"}


def test_a_special_token_ends_a_section_and_its_text_in_plain_tokens_does_not(
    byte_level: Tokenizer, grammars: Grammars
) -> None:
    special = ReasoningSection(opening=(), end=(1,), is_open=True)
    plain = [encode(byte_level, character)[0] for character in "<|im_start|>"]
    assert allowed(grammars, RED, special, plain) is None
    assert allowed(grammars, RED, special, [*plain, 1]) is not None


@pytest.mark.parametrize("grammar", [RED, None])
@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_forces_the_end_token_by_token(
    byte_level: Tokenizer, grammars: Grammars, grammar: Grammar | None, budget: int
) -> None:
    for bounded, opened in (
        (section(byte_level, True, budget), ()),
        (section(byte_level, False, budget), ("<think>",)),
    ):
        output = [token for text in opened for token in encode(byte_level, text)]
        for token in encode(byte_level, "a b c d")[:budget]:
            assert allowed(grammars, grammar, bounded, output) is None
            output.append(token)
        for token in bounded.end:
            assert allowed(grammars, grammar, bounded, output) == {token}
            output.append(token)
        behind = allowed(grammars, grammar, bounded, output)
        assert behind is None if grammar is None else "r" in texts(byte_level, behind)


def test_a_row_whose_bounded_section_is_over_costs_nothing(byte_level: Tokenizer, grammars: Grammars) -> None:
    matchers = RowMatchers(grammars)
    bounded = section(byte_level, True, 5)
    matchers.set_row(0, None, bounded)
    matchers.set_row(1, None, section(byte_level))
    assert not matchers.has_any(np.array([1])), "nor does a section without a bound or a grammar behind it"
    assert matchers.row_masks(0, np.array(bounded.end, np.int32)) == [None]
    assert not matchers.has_any(np.array([0]))


pieces = st.sampled_from(["<think>", "</think>", "</th", "ink>", "\n", "red", "r", "ed", "<", " x", "<|im_end|>"])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.lists(pieces, max_size=3), st.lists(pieces, max_size=2), st.sampled_from("cfd"))),
    st.booleans(),
    st.sampled_from([None, 0, 4]),
    st.sampled_from([RED, None]),
)
def test_masks_are_a_function_of_the_tokens_through_forks_drafts_and_losses(
    byte_level: Tokenizer, grammars: Grammars, steps: list[Any], is_open: bool, budget: int | None, grammar: Any
) -> None:
    asked = section(byte_level, is_open, budget)

    def begun() -> RowMatchers:
        matchers = RowMatchers(grammars)
        matchers.set_row(0, grammar, asked)
        return matchers

    def masks(matchers: RowMatchers, output: list[int], drafts: list[int]) -> list[bytes | None]:
        if not matchers.has_any(np.array([0])):
            return [None] * (1 + len(drafts))
        return matchers.row_masks(0, np.array(output, np.int32), drafts)

    kept, output = begun(), list[int]()
    for more, guessed, event in steps:
        output += [token for text in more for token in encode(byte_level, text)]
        drafts = [token for text in guessed for token in encode(byte_level, text)]
        expected = [masks(begun(), [*output, *drafts[:count]], [])[0] for count in range(len(drafts) + 1)]
        assert masks(kept, output, drafts) == expected
        if event == "d":
            kept.drop_state(0)
        elif event == "f":
            kept.copy_row(0, 1)
            kept.copy_row(1, 0)


def test_a_section_that_nothing_ends_or_with_less_than_no_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="end of a reasoning section"):
        ReasoningSection(opening=(), end=(), is_open=True)
    with pytest.raises(RequestError, match="max_tokens of a reasoning section"):
        ReasoningSection(opening=(), end=(1,), is_open=True, max_tokens=-1)


def test_a_prompts_end_tells_whether_a_section_is_open(byte_level: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def behind(text: str, max_tokens: int | None = None, is_constrained: bool = True) -> ReasoningSection | None:
        return section_behind(byte_level, encode(byte_level, text), max_tokens, is_constrained=is_constrained)

    assert behind("Hi <think>\n") == section(byte_level)
    assert behind("Hi <think></think>\n\n") is None
    assert behind("Hi <think></think>\n\n", 7) == section(byte_level, False, 7)
    assert behind("Hi <think>", is_constrained=False) is None
    monkeypatch.setattr(reasoning_marks, "OPENING", "<ponder>")
    assert behind("Hi <ponder>") is None
    with pytest.raises(RequestError, match=r"thinking_token_budget .* no token <ponder>"):
        behind("Hi", 7)
