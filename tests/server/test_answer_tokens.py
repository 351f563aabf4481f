"""Which of an answer's tokens are reasoning and which are text, in the format that most models write."""

import itertools

import pytest

from octavo.answers.formats import built_in_format
from octavo.answers.tools import Tool, ToolUse
from octavo.config import EngineConfig
from octavo.server.answer_tokens import AnswerTokens
from octavo.tokenization.loading import load_tokenizer
from octavo.tokenization.tokenizer import Tokenizer

FORMAT = built_in_format("hermes", "<think> </think>")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(EngineConfig(model="smollm2"))


def answer_tokens(tokenizer: Tokenizer, prompt: str = "<|im_start|>assistant\n") -> AnswerTokens[int]:
    """Entries are the tokens' own ids."""
    reader = FORMAT.reader(prompt, ToolUse((Tool("add"),)))
    return AnswerTokens(reader, tokenizer.stream(skip_special_tokens=False, continues=True))


def encoded(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def test_reasoning_is_counted_with_its_markers_and_only_text_is_told(tokenizer: Tokenizer) -> None:
    *reasoning, text, call = encoded(tokenizer, "<think>", "\n2 < 3, so", "</think>", "Yes.", CALL)
    tokens = answer_tokens(tokenizer)
    told = [tokens.push(ids, ids) for ids in (*reasoning, text, call)]
    assert told[-2] == text
    assert [ids for place, ids in enumerate(told) if place != len(reasoning)] == [[]] * (len(reasoning) + 1)
    assert tokens.num_reasoning == sum(map(len, reasoning))


def test_a_section_that_the_prompt_has_opened_counts_from_the_first_token(tokenizer: Tokenizer) -> None:
    [thought, text] = encoded(tokenizer, "Hm.</think>", "Yes <thin")
    tokens = answer_tokens(tokenizer, "<|im_start|>assistant\n<think>\n")
    assert tokens.push(thought, thought) == []
    assert tokens.push(text, text) + tokens.finish() == text
    assert tokens.num_reasoning == len(thought)


def test_how_tokens_come_together_changes_nothing(tokenizer: Tokenizer) -> None:
    token_ids = [*itertools.chain(*encoded(tokenizer, "<think>2 < 3.</think>", "Yes, <tool", f"!{CALL}"))]
    at_once, one_by_one = answer_tokens(tokenizer), answer_tokens(tokenizer)
    told = [entry for token_id in token_ids for entry in one_by_one.push([token_id], [token_id])]
    assert at_once.push(token_ids, token_ids) + at_once.finish() == told + one_by_one.finish()
    assert at_once.num_reasoning == one_by_one.num_reasoning > 0


def test_an_answer_without_markers_is_all_text(tokenizer: Tokenizer) -> None:
    [token_ids] = encoded(tokenizer, "Größe: 5 < 6 <|im_end|>")
    tokens = answer_tokens(tokenizer)
    assert tokens.push(token_ids, token_ids) + tokens.finish() == token_ids
    assert tokens.num_reasoning == 0
