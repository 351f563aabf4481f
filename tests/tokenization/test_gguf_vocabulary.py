"""A tokenizer built from a GGUF file's vocabulary is the model's own."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import TokenType
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from octavo.errors import ModelError
from octavo.tokenization.tokenizer import Tokenizer

GGUFMaker = Callable[..., None]

DIGIT_MERGES = ["1 2", "12 3", "123 4", "1234 5"]


@pytest.fixture
def digits(write_gguf: GGUFMaker, tmp_path: Path) -> Callable[..., Tokenizer]:
    """Byte-level tokenizers that would make one token of 12345, if their splits let them, and have no merges to 999."""

    def make(**fields: Any) -> Tokenizer:
        tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "12", "123", "1234", "12345", "999"]
        write_gguf(tmp_path / "digits.gguf", model="gpt2", tokens=tokens, merges=DIGIT_MERGES, bos=0, eos=1, **fields)
        return Tokenizer.from_gguf(tmp_path / "digits.gguf")

    return make


def texts_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token_text(token_id) for token_id in tokenizer.encode(text)]


def test_smollm2_encodes_as_transformers_does(
    smollm2: Tokenizer, smollm2_oracle: PreTrainedTokenizerBase, varied_texts: list[str]
) -> None:
    marked = ["<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b <|im_start|>", "<|im_start", "<repo_name>x"]
    for text in [*varied_texts, *marked]:
        assert smollm2.encode(text) == smollm2_oracle.encode(text), text
        assert smollm2.encode(text, add_special_tokens=False) == smollm2_oracle.encode(text, add_special_tokens=False)


def test_smollm2_splits_digits_as_its_published_tokenizer_does(
    smollm2: Tokenizer, smollm2_oracle: PreTrainedTokenizerBase
) -> None:
    for text in ["a  12", "x   3.14\n\n  7 ", "  2024-05-06  1e9", "½ ²³ ٣٤ Ⅷ", "user\n 0"]:
        assert smollm2.encode(text) == smollm2_oracle.encode(text), text


def test_smollm2_knows_its_special_tokens_and_size(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert smollm2.token_text(2) == "<|im_end|>"
    assert smollm2.decode([1, 2, 2683]) == smollm2.token_text(2683)


def test_a_byte_level_gguf_is_the_tokenizer_that_it_was_written_from(
    byte_level_backend: tokenizers.Tokenizer, write_gguf: GGUFMaker, varied_texts: list[str], tmp_path: Path
) -> None:
    vocab = byte_level_backend.get_vocab()
    added = byte_level_backend.get_added_tokens_decoder()
    kinds = [TokenType.NORMAL] * len(vocab)
    for token_id, token in added.items():
        kinds[token_id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    pieces = [text for text, _ in sorted(vocab.items(), key=lambda item: item[1])]
    path = tmp_path / "small.gguf"
    merges = [" ".join(pair) for pair in json.loads(byte_level_backend.to_str())["model"]["merges"]]
    write_gguf(path, model="gpt2", pre="gpt-2", tokens=pieces, token_types=kinds, bos=1, eos=2, merges=merges)
    tokenizer = Tokenizer.from_gguf(path)
    for text in [*varied_texts, "<|im_start|><한글><think>x</think><|im_end|>"]:
        token_ids = byte_level_backend.encode(text).ids
        assert tokenizer.encode(text) == token_ids
        assert tokenizer.decode(token_ids) == byte_level_backend.decode(token_ids)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["12345"]),
        ("smollm", ["1", "2", "3", "4", "5"]),
        ("qwen2", ["1", "2", "3", "4", "5"]),
        ("llama-bpe", ["<s>", "123", "4", "5"]),
        ("tekken", ["<s>", "1", "2", "3", "4", "5"]),
        ("gpt-4o", ["123", "4", "5"]),
        ("default", ["123", "4", "5"]),
    ],
)
def test_the_files_pre_tokenizer_decides_how_digits_are_cut(
    name: str, expected: list[str], digits: Callable[..., Tokenizer]
) -> None:
    assert texts_of(digits(pre=name), "12345") == expected


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken", "gpt-4o"])
def test_a_byte_level_gguf_is_split_as_transformers_splits_it(
    name: str,
    byte_level_backend: tokenizers.Tokenizer,
    write_gguf: GGUFMaker,
    varied_texts: list[str],
    tmp_path: Path,
) -> None:
    pieces = [text for text, _ in sorted(byte_level_backend.get_vocab().items(), key=lambda item: item[1])]
    merges = [" ".join(pair) for pair in json.loads(byte_level_backend.to_str())["model"]["merges"]]
    kinds = [TokenType.CONTROL if text.startswith("<|") else TokenType.NORMAL for text in pieces]
    path = tmp_path / "model.gguf"
    write_gguf(path, model="gpt2", pre=name, tokens=pieces, token_types=kinds, bos=1, eos=2, merges=merges)
    oracle = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf").backend_tokenizer
    tokenizer = Tokenizer.from_gguf(path)
    for text in [*varied_texts, "HTTPServer's CamelCaseWords/paths and ÀÉÎ'S"]:
        expected = oracle.encode(text, add_special_tokens=False).tokens
        assert [pieces[i] for i in tokenizer.encode(text, add_special_tokens=False)] == expected, text


def test_a_file_that_names_no_pre_tokenizer_has_the_default_one(digits: Callable[..., Tokenizer]) -> None:
    assert texts_of(digits(), "12345") == ["123", "4", "5"]


def test_llama3_takes_a_word_that_is_a_token_whole(digits: Callable[..., Tokenizer]) -> None:
    assert texts_of(digits(pre="llama-bpe", add_bos=False), "999") == ["999"]
    assert texts_of(digits(pre="gpt-2"), "999") == ["9", "9", "9"]


@pytest.mark.parametrize("name", ["falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"])
def test_llama3s_pre_tokenizer_is_known_by_the_names_of_all_models_that_have_it(
    name: str, digits: Callable[..., Tokenizer]
) -> None:
    assert texts_of(digits(pre=name), "12345") == ["<s>", "123", "4", "5"]
    assert texts_of(digits(pre=name, add_bos=False), "999") == ["999"]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        *(("qwen2", name) for name in ("kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2")),
        *(("gpt-4o", name) for name in ("kanana2", "talkie", "minimax-m2")),
        *(("gpt-2", name) for name in ("exaone4", "gigachat", "a.x-4.0", "mellum", "jais", "trillion")),
        *(("dbrx", name) for name in ("glm4", "chatglm-bpe")),
        ("smollm", "minerva-7b"),
    ],
)
def test_another_name_of_a_known_pre_tokenizer_gives_its_tokens(
    other: str, name: str, digits: Callable[..., Tokenizer], varied_texts: list[str]
) -> None:
    expected = [digits(pre=other).encode(text) for text in varied_texts]
    assert [digits(pre=name).encode(text) for text in varied_texts] == expected


def test_an_unknown_pre_tokenizer_is_refused_with_the_known_ones(digits: Callable[..., Tokenizer]) -> None:
    with pytest.raises(ModelError, match=r"'martian'; the known ones are .*llama-bpe.*smollm"):
        digits(pre="martian")


def test_bos_and_eos_go_around_a_text_where_the_file_says_so(digits: Callable[..., Tokenizer]) -> None:
    assert texts_of(digits(pre="gpt-2", add_bos=True), "1") == ["<s>", "1"]
    assert texts_of(digits(pre="gpt-2", add_bos=True, add_eos=True), "1") == ["<s>", "1", "</s>"]
    assert texts_of(digits(pre="gpt-2"), "1") == ["1"]
    assert texts_of(digits(pre="llama-bpe"), "1") == ["<s>", "1"]
    assert texts_of(digits(pre="llama-bpe", add_bos=False), "1") == ["1"]
    assert digits(pre="gpt-2", add_bos=True).encode("1", add_special_tokens=False) == digits(pre="gpt-2").encode("1")


def test_an_end_that_the_file_leaves_unmarked_is_found_whole_and_not_shown(
    write_gguf: GGUFMaker, tmp_path: Path
) -> None:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|im_end|>", "<|endoftext|>", "ab"]
    write_gguf(tmp_path / "ends.gguf", model="gpt2", pre="qwen2", tokens=tokens, merges=["a b"], bos=257, eos=257)
    tokenizer = Tokenizer.from_gguf(tmp_path / "ends.gguf")
    assert texts_of(tokenizer, "a<|im_end|><|endoftext|>") == ["a", "<|im_end|>", "<|endoftext|>"]
    assert tokenizer.decode(tokenizer.encode("a<|im_end|><|endoftext|>")) == "a"


def test_templates_know_the_files_special_tokens(digits: Callable[..., Tokenizer]) -> None:
    tokenizer = digits(pre="gpt-2", chat_template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    assert tokenizer.render_chat([{"role": "user", "content": "1"}]) == "<s>1</s>"


def test_a_file_may_have_a_template_for_conversations_with_tools(digits: Callable[..., Tokenizer]) -> None:
    shows_tools = "{{ tools[0].function.name }}{{ messages[0].content }}"
    named = [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": shows_tools},
    ]
    tokenizer = digits(pre="gpt-2", chat_template=named)
    tools = [{"type": "function", "function": {"name": "clock"}}]
    assert tokenizer.render_chat([{"role": "user", "content": "1"}]) == "1"
    assert tokenizer.render_chat([{"role": "user", "content": "1"}], variables={"tools": tools}) == "clock1"


def sentencepiece_reference(text: str, ids: dict[str, int], scores: list[float]) -> list[str]:
    """SentencePiece's BPE as its paper tells it: merge the neighbours with the best score, the leftmost of equals."""
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[ids[left + right]], place)
            for place, (left, right) in enumerate(pairwise(pieces))
            if left + right in ids and left in ids and right in ids
        ]
        if not pairs:
            return pieces
        place = min(pairs)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


def test_a_vocabulary_with_scores_merges_as_sentencepiece_does(
    sentencepiece: Tokenizer, sentencepiece_pieces: list[tuple[str, TokenType, float]]
) -> None:
    ids = {text: i for i, (text, kind, _) in enumerate(sentencepiece_pieces) if kind == TokenType.NORMAL}
    scores = [score for _, _, score in sentencepiece_pieces]
    for text in ["the other mother", "  spaces   inside ", "dogs and foxes don't mind", "lazy\nnaïve décodé", "<unk"]:
        pieces = sentencepiece_reference(text, ids, scores)
        expected = [1]
        for piece in pieces:
            expected += [ids[piece]] if piece in ids else [4 + byte for byte in piece.encode()]
        assert sentencepiece.encode(text) == expected, text


def test_characters_outside_the_vocabulary_become_their_bytes(sentencepiece: Tokenizer) -> None:
    token_ids = sentencepiece.encode("쪽", add_special_tokens=False)
    assert token_ids[1:] == [4 + byte for byte in "쪽".encode()]
    assert sentencepiece.decode(token_ids) == "쪽"


def test_every_text_survives_byte_fallback(sentencepiece: Tokenizer, varied_texts: list[str]) -> None:
    for text in varied_texts:
        assert sentencepiece.decode(sentencepiece.encode(text)) == text


def test_marked_tokens_are_found_whole_and_byte_tokens_are_not(sentencepiece: Tokenizer) -> None:
    # As llama.cpp and the published tokenizers have it, a text after a special token gets its leading space again.
    assert texts_of(sentencepiece, "<think>the</s>") == ["<s>", "<think>", " the", "</s>"]
    assert sentencepiece.decode(sentencepiece.encode("<think>the</s>")) == "<think> the"
    assert len(sentencepiece.encode("<0x41>", add_special_tokens=False)) > 1


def test_a_small_sentencepiece_gguf_encodes_as_transformers_does(
    write_gguf: GGUFMaker, sentencepiece_pieces: list[tuple[str, TokenType, float]], tmp_path: Path
) -> None:
    tokens, kinds, scores = zip(*sentencepiece_pieces, strict=True)
    path = tmp_path / "model.gguf"
    write_gguf(path, model="llama", tokens=tokens, token_types=kinds, scores=scores, bos=1, eos=2, unk=0, add_bos=True)
    oracle = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    tokenizer = Tokenizer.from_gguf(path)
    # Not with a space first: there transformers leaves out the prefix that SentencePiece and llama.cpp always add.
    for text in ["the other mother", "inner   spaces and trailing ", "안녕하세요 🙂 naïve", "1 22 333\n\n\tx"]:
        assert tokenizer.encode(text) == oracle.encode(text), text


def test_without_a_space_prefix_texts_begin_as_they_are(
    write_gguf: GGUFMaker, sentencepiece_pieces: list[tuple[str, TokenType, float]], tmp_path: Path
) -> None:
    tokens, kinds, scores = zip(*sentencepiece_pieces, strict=True)
    path = tmp_path / "model.gguf"
    write_gguf(
        path,
        model="llama",
        tokens=tokens,
        token_types=kinds,
        scores=scores,
        bos=1,
        eos=2,
        unk=0,
        add_space_prefix=False,
        add_bos=False,
    )
    tokenizer = Tokenizer.from_gguf(path)
    assert texts_of(tokenizer, "the the") == ["the", " the"]
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"


def test_unused_tokens_are_not_made_and_unknown_text_without_bytes_is_one_token(
    write_gguf: GGUFMaker, tmp_path: Path
) -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1), ("b", 1), ("ab", 5), ("ba", 1)]
    tokens, kinds = zip(*pieces, strict=True)
    path = tmp_path / "model.gguf"
    write_gguf(path, model="llama", tokens=tokens, token_types=kinds, scores=[0.0] * 8, bos=1, eos=2, unk=0)
    assert Tokenizer.from_gguf(path).encode("abba쪽쪽a") == [1, 3, 4, 5, 7, 0, 4]


def test_a_phi3s_special_tokens_take_the_white_space_behind_them(
    write_gguf: GGUFMaker, sentencepiece_pieces: list[tuple[str, TokenType, float]], tmp_path: Path
) -> None:
    tokens, kinds, scores = zip(*sentencepiece_pieces, ("<|user|>", TokenType.CONTROL, 0.0), strict=True)
    more = {"token_types": kinds, "scores": scores, "bos": 1, "eos": 2, "unk": 0, "add_bos": False}
    for architecture, texts in {"phi3": ["<|user|>", " the"], "llama": ["<|user|>", " ", "\n", "the"]}.items():
        write_gguf(tmp_path / architecture, model="llama", tokens=tokens, architecture=architecture, **more)
        assert texts_of(Tokenizer.from_gguf(tmp_path / architecture), "<|user|>\nthe") == texts
    tokenizer = Tokenizer.from_gguf(tmp_path / "phi3")
    assert texts_of(tokenizer, "<s>\nthe") == ["<s>", " ", "\n", "the"]


def test_runs_of_spaces_that_a_user_defined_are_made_before_all_words(write_gguf: GGUFMaker, tmp_path: Path) -> None:
    # Converters write such tokens with spaces in them, where all others have ▁.
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁a", 1), ("  ", 4), ("   ", 4), ("▁", 1), ("a", 1), ("\n\n", 4)]
    tokens, kinds = zip(*pieces, strict=True)
    scores = [0.0, 0.0, 0.0, -1.0, -1000.0, -1000.0, -3.0, -4.0, -1000.0]
    path = tmp_path / "model.gguf"
    more = {"scores": scores, "add_bos": False, "add_space_prefix": False}
    write_gguf(path, model="llama", tokens=tokens, token_types=kinds, bos=1, eos=2, unk=0, **more)
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.encode(" a") == [3]
    assert tokenizer.encode("  a") == [4, 7]
    assert tokenizer.encode("   a a\n\n  ") == [5, 7, 3, 8, 4]
    assert tokenizer.decode([5, 7, 3, 8, 4]) == "   a a\n\n  "


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"model": "wordpiece"}, "kind 'wordpiece'; the known kinds are gpt2, llama"),
        ({"model": "gpt2", "pre": "gpt-2"}, "broken vocabulary.*merges"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": ["q z"]}, "broken vocabulary.*q"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": ["ab"]}, "broken vocabulary"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": ["a b"], "token_types": [1]}, "3 tokens and 1 token types"),
        ({"model": "llama"}, "broken vocabulary.*scores"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": ["a b"], "eos": 77}, "broken vocabulary: IndexError"),
    ],
)
def test_a_broken_vocabulary_is_refused_with_its_cause(
    fields: dict[str, Any], cause: str, write_gguf: GGUFMaker, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    write_gguf(path, **({"tokens": ["a", "b", "ab"], "bos": 0, "eos": 1} | fields))
    with pytest.raises(ModelError, match=cause):
        Tokenizer.from_gguf(path)
