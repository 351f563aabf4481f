"""Text that comes a token at a time is the text of all tokens, and no half character is ever shown."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, trainers

from octavo.errors import ModelError
from octavo.tokenization.detokenizer import Detokenizer
from octavo.tokenization.token_bytes import TokenBytes
from octavo.tokenization.tokenizer import Tokenizer
from octavo.tokenization.vocabulary import Vocabulary
from tiny_tokenizers import CORPUS

BAD = "\ufffd"

texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.lists(
    st.sampled_from(["the", " ", "안녕", "🙂", "👍🏽", "e\u0301", "<|im_end|>", "<think>", "\n", "▁", "</s>", "1"])
).map("".join)
streams = st.lists(st.integers(0, 505), max_size=60)


def streamed(tokenizer: Tokenizer, token_ids: list[int], skip_special_tokens: bool = True) -> str:
    stream = tokenizer.stream(skip_special_tokens)
    return "".join(stream.push(token_id) for token_id in token_ids)


@given(text=texts, skips=st.booleans())
def test_byte_level_streams_join_to_the_whole_text(
    byte_level: Tokenizer, byte_level_backend: tokenizers.Tokenizer, text: str, skips: bool
) -> None:
    token_ids = byte_level.encode(text)
    whole = byte_level_backend.decode(token_ids, skip_special_tokens=skips)
    assert streamed(byte_level, token_ids, skips) == whole
    assert byte_level.decode(token_ids, skips) == whole


@given(text=texts, skips=st.booleans())
def test_byte_fallback_streams_join_to_the_whole_text(
    sentencepiece: Tokenizer, sentencepiece_backend: tokenizers.Tokenizer, text: str, skips: bool
) -> None:
    token_ids = sentencepiece.encode(text)
    whole = sentencepiece_backend.decode(token_ids, skip_special_tokens=skips)
    assert streamed(sentencepiece, token_ids, skips) == whole
    assert sentencepiece.decode(token_ids, skips) == whole


@pytest.mark.parametrize("cleanup", [True, False])
def test_word_piece_streams_join_to_the_whole_text(cleanup: bool) -> None:
    """Text is lowered, and spaces are where the decoder puts them."""
    backend = tokenizers.BertWordPieceTokenizer(lowercase=True)._tokenizer
    backend.decoder = decoders.WordPiece(cleanup=cleanup)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = Tokenizer(Vocabulary(backend=backend, special_tokens={}, chat_template=None, config={}))
    assert backend.encode("lazily").tokens[1].startswith("##")
    for text in [*CORPUS, "I'm sure: do not mind, is it? it's unhappily 'there'!", "[SEP] mother [SEP]"]:
        token_ids = backend.encode(text).ids
        for skips in (True, False):
            whole = backend.decode(token_ids, skip_special_tokens=skips)
            assert streamed(tokenizer, token_ids, skips) == tokenizer.decode(token_ids, skips) == whole


@given(token_ids=streams, skips=st.booleans())
def test_any_tokens_at_all_stream_as_the_tokenizers_package_decodes_them(
    byte_level: Tokenizer, byte_level_backend: tokenizers.Tokenizer, token_ids: list[int], skips: bool
) -> None:
    whole = byte_level_backend.decode(token_ids, skip_special_tokens=skips)
    assert byte_level.decode(token_ids, skips) == whole
    # An unfinished character at the end is one replacement character there and nothing here.
    assert whole in (text := streamed(byte_level, token_ids, skips), text + BAD)


def test_bytes_become_replacement_characters_as_soon_as_they_are_certain_to_be_none(
    byte_level: Tokenizer, byte_level_backend: tokenizers.Tokenizer
) -> None:
    """Whatever two bytes a text ends with: those of surrogates, of overlong forms and of what lies beyond Unicode."""
    ids = {byte_level.token_bytes[token_id]: token_id for token_id in range(byte_level_backend.get_vocab_size())}
    for first in range(0x80, 0x100):
        for second in range(0x7F, 0x100):
            pair = bytes((first, second))
            if all(pair[i : i + 1] in ids for i in range(2)):
                token_ids = [ids[pair[:1]], ids[pair[1:]]]
                text, whole = streamed(byte_level, token_ids), byte_level_backend.decode(token_ids)
                assert whole in (text, text + BAD), pair


@given(token_ids=streams)
def test_any_tokens_of_a_byte_fallback_vocabulary_stream_as_they_decode(
    sentencepiece: Tokenizer, token_ids: list[int]
) -> None:
    text = streamed(sentencepiece, token_ids)
    assert sentencepiece.decode(token_ids) in (text, text + BAD)


@settings(max_examples=30)
@given(text=texts)
def test_no_push_shows_a_part_of_a_character(byte_level: Tokenizer, sentencepiece: Tokenizer, text: str) -> None:
    for tokenizer in (byte_level, sentencepiece):
        stream = tokenizer.stream(skip_special_tokens=False)
        shown = ""
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            shown += stream.push(token_id)
            assert BAD in text or BAD not in shown


def test_a_character_is_shown_with_its_last_token(sentencepiece: Tokenizer) -> None:
    stream = sentencepiece.stream()
    token_ids = [4 + byte for byte in "한🙂".encode()]
    assert [stream.push(token_id) for token_id in token_ids] == ["", "", "한", "", "", "", "🙂"]


def test_bytes_that_are_no_text_hold_nothing_back(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    stream = sentencepiece.stream()
    shown = [stream.push(4 + byte) for byte in [0xFF, 0x41, 0xED, 0x95, 0x42, 0x80, 0x80]]
    assert shown == [BAD, "A", "", "", f"{BAD}B", BAD, BAD]
    stream = byte_level.stream()
    continuation = byte_level.encode("한")[-1]
    assert all(stream.push(continuation) == BAD for _ in range(1000))


def test_an_unfinished_character_at_the_end_is_dropped(sentencepiece: Tokenizer) -> None:
    assert streamed(sentencepiece, [4 + byte for byte in b"A\xed\x95"]) == "A"


def test_a_text_that_continues_another_keeps_its_first_space(sentencepiece: Tokenizer) -> None:
    token_ids = sentencepiece.encode("the other", add_special_tokens=False)
    starting, continuing = sentencepiece.stream(), sentencepiece.stream(continues=True)
    assert "".join(map(starting.push, token_ids)) == "the other"
    assert "".join(map(continuing.push, token_ids)) == " the other"


def test_only_the_first_space_of_a_text_is_the_tokenizers_own(sentencepiece: Tokenizer) -> None:
    space = 4 + ord(" ")
    assert streamed(sentencepiece, [1, space, space, 4 + ord("a")]) == " a"
    assert streamed(sentencepiece, [1, space, space], skip_special_tokens=False) == "<s>  "


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.Metaspace(),
        decoders.Metaspace(prepend_scheme="never"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        decoders.Fuse(),
    ],
)
def test_other_decoders_stream_as_the_tokenizers_package_decodes(decoder: decoders.Decoder | None) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"▁Hello": 0, "▁the": 1, "re": 2, "안": 3}, unk_token="re"))
    if decoder is not None:
        backend.decoder = decoder
    tokenizer = Tokenizer(Vocabulary(backend=backend))
    for token_ids in ([0, 1, 2, 3], [2, 1], [3], []):
        assert tokenizer.decode(token_ids) == backend.decode(token_ids)
        assert streamed(tokenizer, token_ids) == backend.decode(token_ids)


@pytest.mark.parametrize("decoder", [decoders.CTC(), decoders.Strip("x", 1, 0)])
def test_a_decoder_that_needs_more_than_one_token_is_refused(decoder: decoders.Decoder) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.decoder = decoder
    with pytest.raises(ModelError, match=r"decoder has an unknown part: .*; known are ByteLevel, "):
        Tokenizer(Vocabulary(backend=backend))


def test_a_push_looks_at_one_token_however_long_the_text_is(byte_level_backend: tokenizers.Tokenizer) -> None:
    class Counted(TokenBytes):
        looked_up = 0

        def __getitem__(self, token_id: int) -> bytes:
            self.looked_up += 1
            return super().__getitem__(token_id)

    token_bytes = Counted(byte_level_backend)
    stream = Detokenizer(token_bytes)
    token_ids = byte_level_backend.encode("안녕하세요 🙂 the " * 500).ids
    for token_id in token_ids:
        stream.push(token_id)
    assert token_bytes.looked_up == len(token_ids)
