"""A lower bound of a text's tokens, found from its bytes: never more than the tokens there are."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from octavo.tokenization.text_length import TextLength


def byte_level(**settings: object) -> tokenizers.Tokenizer:
    """Byte-level BPE that knows every byte and the runs of two and of four a's."""
    vocab = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"aa": 256, "aaaa": 257}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("a", "a"), ("aa", "aa")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, value in settings.items():
        setattr(backend, name, value)
    return backend


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("aaab é한각\u0301\u1100\u1161\u11a8🙂"), max_size=40))
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.Sequence([normalizers.NFC()])])
def test_no_text_has_fewer_tokens_than_the_bound(normalizer: normalizers.Normalizer | None, text: str) -> None:
    backend = byte_level(normalizer=normalizer)
    assert TextLength.of(backend).least_tokens(text) <= len(backend.encode(text).ids)


def test_the_bound_is_reached() -> None:
    backend = byte_level()
    assert TextLength.of(backend).least_tokens("a" * 400) == len(backend.encode("a" * 400).ids) == 100


def test_bytes_that_no_token_stands_for_do_not_count() -> None:
    vocab = {character: index for index, character in enumerate("ab")}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert TextLength.of(backend).least_tokens("c" * 1000 + "ab") == len(backend.encode("c" * 1000 + "ab").ids) == 2


def test_tokenizers_that_may_swallow_any_text_have_no_bound() -> None:
    swallowing = byte_level()
    swallowing.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    for backend in (swallowing, words, byte_level(normalizer=normalizers.Strip())):
        assert TextLength.of(backend).least_tokens("x" * 10_000) == 0
