"""Grammars of text are followed in the bytes of a model's tokens."""

import json
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from llguidance import LLParserLimits

from octavo import StructuredOutputsParams
from octavo.errors import RequestError
from octavo.sampling import guidance
from octavo.sampling.grammar_sources import check_grammar
from octavo.sampling.grammars import BUILT_IN, Grammars, ModelTokens
from octavo.sampling.guidance import Guidance, GuidanceMatcher
from octavo.structured_outputs import Grammar
from octavo.tokenization.tokenizer import Tokenizer

PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Of both kinds."""
    tokenizer: Tokenizer = request.getfixturevalue(request.param)
    return tokenizer


def tokens_of(tokenizer: Tokenizer, num_more: int = 10) -> ModelTokens:
    """Of a model that has some more places than its tokenizer has tokens, and ends with either of two tokens."""
    size = tokenizer.vocab_size + num_more
    return ModelTokens(
        vocab_size=size, eos_token_ids=frozenset({1, 2}), load_tokenizer=lambda: tokenizer, num_threads=2
    )


def allowed(mask: bytes) -> set[int]:
    bits = int.from_bytes(mask, "little")
    return {place for place in range(bits.bit_length()) if bits >> place & 1}


def texts(tokenizer: Tokenizer, token_ids: Iterable[int]) -> set[bytes]:
    return {tokenizer.token_bytes[token_id] for token_id in token_ids}


def token(tokenizer: Tokenizer, text: str) -> int:
    """The token of one character."""
    return next(i for i in range(3, tokenizer.vocab_size) if tokenizer.token_bytes[i] == text.encode())


def test_the_end_is_allowed_where_the_grammar_may_end_and_alone_where_it_must(tokenizer: Tokenizer) -> None:
    follower = Guidance(tokens_of(tokenizer))
    matcher = follower.compile(Grammar("regex", "[ab]{1,2}"))
    a = token(tokenizer, "a")
    masks = [allowed(mask) for mask in follower.masks([matcher])]
    assert texts(tokenizer, masks[0]) <= {b"a", b"b", b"aa", b"ab", b"ba", b"bb"}
    matcher.consume([a])
    [after_one] = follower.masks([matcher])
    assert {1, 2} < allowed(after_one)
    matcher.consume([a])
    [at_the_end] = follower.masks([matcher])
    assert allowed(at_the_end) == {1, 2}
    matcher.consume([2])
    assert follower.masks([matcher]) == [at_the_end]


def test_special_tokens_and_places_without_a_token_spell_no_text(tokenizer: Tokenizer) -> None:
    follower = Guidance(tokens_of(tokenizer))
    [mask] = follower.masks([follower.compile(Grammar("regex", "(?s:.)*"))])
    for token_id in allowed(mask) - {1, 2}:
        assert token_id < tokenizer.vocab_size
        assert not tokenizer.token_bytes.is_special(token_id)


def test_a_tokenizer_larger_than_the_model_is_followed_as_far_as_the_model_goes(byte_level: Tokenizer) -> None:
    follower = Guidance(tokens_of(byte_level, num_more=-200))
    [mask] = follower.masks([follower.compile(Grammar("json_object"))])
    assert allowed(mask)
    assert max(allowed(mask)) < byte_level.vocab_size - 200


def test_masks_made_together_are_those_made_one_by_one(tokenizer: Tokenizer) -> None:
    follower = Guidance(tokens_of(tokenizer))
    grammars = [Grammar("json_object"), Grammar("regex", "a+"), Grammar("choice", '["ab", "b"]'), Grammar("regex", ".")]
    matchers = [follower.compile(grammar) for grammar in grammars for _ in range(5)]
    for count, matcher in enumerate(matchers):
        matcher.consume([token(tokenizer, "a")] * (count % 3))
    alone = [follower.masks([matcher])[0] for matcher in matchers]
    assert follower.masks(matchers) == alone
    assert len(set(alone)) > 4


def test_what_a_draft_breaks_may_only_end_and_its_row_goes_on(tokenizer: Tokenizer) -> None:
    follower = Guidance(tokens_of(tokenizer))
    matcher = follower.compile(Grammar("regex", "ab"))
    draft = matcher.copy()
    draft.consume([token(tokenizer, "z")])
    draft.consume([token(tokenizer, "a")])
    row, lost = follower.masks([matcher, draft])
    assert allowed(lost) == {1, 2}
    assert texts(tokenizer, allowed(row)) <= {b"a", b"ab"}


def test_a_limit_that_others_have_used_up_fails_nobody_else(
    monkeypatch: pytest.MonkeyPatch, byte_level: Tokenizer
) -> None:
    monkeypatch.setattr(guidance, "LIMITS", LLParserLimits(max_lexer_states=1000, verbose_errors=False))
    follower = Guidance(tokens_of(byte_level))
    a, b = token(byte_level, "a"), token(byte_level, "b")
    grammar = follower.compile(Grammar("regex", "(.*a.{12}){1,3}|b+"))
    modest = grammar.copy()
    wanted = follower.masks([grammar.copy()])
    greedy = grammar.copy()

    def overdo() -> None:
        draw = random.Random(0)
        for _ in range(400):
            follower.masks([greedy])
            greedy.consume([draw.choice([a, b])])

    with pytest.raises(RequestError, match="too many"):
        overdo()
    assert follower.masks([modest]) == wanted, "it begins again with a limit of its own"
    assert follower.masks([grammar.copy()]) == wanted, "and so do those that come later"


def test_a_grammar_is_compiled_once_in_a_thread_of_its_own(
    monkeypatch: pytest.MonkeyPatch, byte_level: Tokenizer
) -> None:
    grammars = Grammars(BUILT_IN, tokens_of(byte_level))
    grammar = Grammar("json_schema", json.dumps(PERSON))
    first = grammars.prepare(grammar)
    assert grammars.prepare(grammar) is first
    assert isinstance(grammars.follow(grammar, None).grammar, GuidanceMatcher)
    assert grammars.prepare(Grammar("regex", "(")).exception() is not None
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(lambda _: grammars.follow(grammar, None) is not None, range(4))) == [True] * 4


@pytest.mark.parametrize(
    ("params", "good", "bad"),
    [
        ({"json": PERSON}, '{"name": "A"}', '{"name": 1}'),
        ({"json": json.dumps(PERSON)}, '{ "name" : "é" }', "[]"),
        ({"json": PERSON, "disable_any_whitespace": True}, '{"name":"A"}', '{"name": "A"}'),
        ({"json": PERSON, "whitespace_pattern": "_*"}, '{_"name":_"A"}', '{ "name":"A"}'),
        ({"json": PERSON, "disable_additional_properties": True}, '{"name": "A"}', '{"name": "A", "b": 1}'),
        ({"json": PERSON}, '{"name": "A", "b": 1}', "{}"),
        ({"json": True}, "[1, null]", "x"),
        ({"json_object": True}, "{}", "[]"),
        ({"json_object": True}, '{\n    "a" : 1 }', '{\n\n"a": 1}'),
        ({"json_object": True, "whitespace_pattern": "_"}, "{_}", "{ }"),
        ({"regex": r"^\d+$"}, "12", "1a"),
        ({"regex": "a/b"}, "a/b", "a"),
        ({"choice": ["a b", 'q"\n\\', "é"]}, 'q"\n\\', "q"),
        ({"choice": ["a", "ab", "a"]}, "ab", "b"),
        ({"grammar": 'start: "a" | start "b"'}, "abbb", "b"),
        ({"grammar": 'root ::= "a" [0-9]{2} x\nx ::= "é"?'}, "a12é", "a1é"),
    ],
)
def test_a_text_is_followed_to_its_end_where_it_conforms(byte_level: Tokenizer, params, good: str, bad: str) -> None:
    follower = Guidance(tokens_of(byte_level))
    grammar = StructuredOutputsParams(**params).grammar_of_output()
    check_grammar(grammar)
    ended = []
    for text in (good, bad):
        matcher = follower.compile(grammar)
        for byte in text.encode():
            matcher.consume([next(i for i in range(3, 400) if byte_level.token_bytes[i] == bytes([byte]))])
        ended.append(not matcher.is_lost and {1, 2} <= allowed(follower.masks([matcher])[0]))
    assert ended == [True, False]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"json": {"not": {"minimum": 1}}}, 'Unimplemented keys: ."not"'),
        ({"json": {"not": {}}}, "nothing conforms"),
        ({"json": {"type": "string", "format": "colour"}}, "Unknown format: colour"),
        ({"json": {"$ref": "http://127.0.0.1/a"}}, "does not fetch"),
        ({"json": {"x-guidance": {"lenient": True}, "not": {"minimum": 1}}}, "Unimplemented"),
        ({"json": False}, "an object, got bool"),
        ({"json": "{"}, "not valid JSON"),
        ({"json": {"a": {1, 2}}}, "must be a JSON schema"),
        ({"regex": "(?=a)"}, "look-around"),
        ({"regex": "\ud800"}, "half of a surrogate pair"),
        ({"grammar": "start: x"}, 'unknown name: "x"'),
        ({"grammar": "what"}, "cannot be read"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(params, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_grammar(StructuredOutputsParams(**params).grammar_of_output())


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "given: none"),
        ({"json_object": False}, "given: none"),
        ({"json": {}, "regex": "a"}, "given: json and regex"),
        ({"choice": []}, "choice .* not empty"),
        ({"choice": [1]}, "choice"),
        ({"regex": 1}, "regex .* a text"),
        ({"regex": "a", "whitespace_pattern": "b"}, "whitespace_pattern .* it is for json"),
        ({"json": {}, "whitespace_pattern": "b", "disable_any_whitespace": True}, "left out with"),
        ({"structural_tag": 1}, "structural_tag .* a dict or its text"),
        ({"structural_tag": "{}", "json_object": True}, "given: json_object and structural_tag"),
        ({"xml": "a"}, "unknown field xml"),
    ],
)
def test_params_that_say_nothing_or_too_much_are_refused(params, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        StructuredOutputsParams(**params)
