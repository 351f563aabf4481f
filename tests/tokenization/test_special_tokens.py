"""Tokens that only the files beside tokenizer.json name have the ids that transformers gives them."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from octavo.errors import ModelError
from octavo.tokenization.tokenizer import Tokenizer

ANY_CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
TEXTS = ["a<|im_end|>b", "a <tool> b", "a<x>b ", " <|im_end|> x<y>", "<tool><|im_end|>", "<z>"]


def declared(content: str, **flags: object) -> dict[str, Any]:
    return dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False) | {"content": content} | flags


def make_folder(folder: Path, files: dict[str, dict[str, Any]], ordinary: bool = False) -> Path:
    """Bytes, and `<|im_end|>` as an entry of the vocabulary or, where `ordinary`, as an added token that is not
    special."""
    vocab = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab | {"<|im_end|>": 256}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if ordinary:
        backend.add_tokens([tokenizers.AddedToken("<|im_end|>", normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


CONFIGS: dict[str, dict[str, Any]] = {
    "an end in the vocabulary and a new token": {
        "tokenizer_config": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<tool>"]}
    },
    "the newer name of further tokens": {
        "tokenizer_config": {"extra_special_tokens": ["<tool>"], "additional_special_tokens": ["<x>"]}
    },
    "roles of the model's own": {
        "tokenizer_config": {"extra_special_tokens": {"image_token": "<tool>"}, "video_token": "<x>"}
    },
    "roles of the model's own in an object": {
        "tokenizer_config": {"model_specific_special_tokens": {"image_token": "<tool>"}}
    },
    "all roles": {
        "tokenizer_config": {
            "mask_token": "<z>",
            "pad_token": "<y>",
            "unk_token": "<tool>",
            "bos_token": "<x>",
            "eos_token": "<|im_end|>",
        }
    },
    "objects with flags": {
        "tokenizer_config": {
            "eos_token": {"__type": "AddedToken", **declared("<tool>", lstrip=True)},
            "additional_special_tokens": [
                {"__type": "AddedToken", **declared("<x>", rstrip=True, special=True)},
                "<y>",
            ],
        }
    },
    "a map": {"special_tokens_map": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<tool>", "<x>"]}},
    "a map with objects": {
        "special_tokens_map": {"eos_token": declared("<|im_end|>", rstrip=True), "pad_token": "<x>"}
    },
    "a map that goes before the config": {
        "tokenizer_config": {"eos_token": "<x>"},
        "special_tokens_map": {"eos_token": "<|im_end|>"},
    },
    "declared tokens, which go before the map": {
        "tokenizer_config": {
            "eos_token": "<x>",
            "added_tokens_decoder": {
                "258": declared("<tool>", lstrip=True, special=False),
                "257": declared("<y>", special=True),
                "256": declared("<|im_end|>", rstrip=True, special=True),
            },
        },
        "special_tokens_map": {"eos_token": "<|im_end|>", "pad_token": "<z>"},
    },
    "added_tokens.json": {
        "tokenizer_config": {"eos_token": "<x>"},
        "added_tokens": {"<tool>": 258, "<x>": 257},
    },
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("ordinary", [False, True])
def test_ids_and_texts_are_those_of_transformers(tmp_path: Path, name: str, ordinary: bool) -> None:
    files = CONFIGS[name]
    config = ANY_CLASS | files.get("tokenizer_config", {})
    folder = make_folder(tmp_path, {**files, "tokenizer_config": config}, ordinary)
    tokenizer, oracle = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        token_ids = tokenizer.encode(text)
        assert token_ids == oracle(text).input_ids, text
        for skips in (True, False):
            assert tokenizer.decode(token_ids, skips) == oracle.decode(token_ids, skip_special_tokens=skips), text
    assert tokenizer.vocab_size == len(oracle)


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<|im_end|>"},
        {"additional_special_tokens": ["<|im_end|>"]},
        {"added_tokens_decoder": {"256": declared("<|im_end|>", special=True)}},
    ],
)
def test_a_token_that_the_tokenizer_calls_ordinary_and_its_config_special_is_not_shown(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    tokenizer = Tokenizer.from_folder(make_folder(tmp_path, {"tokenizer_config": config}, ordinary=True))
    assert tokenizer.encode("a<|im_end|>") == [64, 256]
    assert tokenizer.decode([64, 256]) == "a"
    assert tokenizer.decode([64, 256], skip_special_tokens=False) == "a<|im_end|>"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {"many": declared("<x>")}}},
        {"tokenizer_config": {"added_tokens_decoder": {"256": "<x>"}}},
        {"tokenizer_config": {"additional_special_tokens": "<x>"}},
        {"tokenizer_config": {"eos_token": declared("<x>", lstrip=3)}},
        {"added_tokens": {"<x>": "257"}},
    ],
)
def test_malformed_special_tokens_are_refused_with_their_folder(
    tmp_path: Path, files: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(ModelError, match=rf"special tokens of {tmp_path}"):
        Tokenizer.from_folder(make_folder(tmp_path, files))
