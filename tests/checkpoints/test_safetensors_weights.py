"""Folders of safetensors, whole or in shards, are read; incomplete or broken ones are refused by file and tensor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo.checkpoints.locate import locate
from octavo.errors import ModelError
from octavo.models.loader import read_config
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

TOKENS = list(range(3, 30))
INDEX = "model.safetensors.index.json"


def change_tensors(folder: Path, removed: str = "", **added: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if name != removed}
    save_file(tensors | {name.replace("__", "."): tensor for name, tensor in added.items()}, path)


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_shards_give_the_same_logits_as_one_file(tmp_path: Path) -> None:
    one = make_llama(tmp_path / "one")
    sharded = make_llama(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    got, expected = (RaggedModel(folder).step({"row": TOKENS})["row"] for folder in (sharded, one))
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_auto_dtype_is_the_checkpoints_own_even_where_the_config_does_not_say(tmp_path: Path, dtype: str) -> None:
    folder = make_llama(tmp_path, dtype=dtype)
    change_config(folder, dtype=None)
    assert read_config(locate(str(folder))).checkpoint_dtype == getattr(torch, dtype)


def test_weights_are_converted_to_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, dtype="bfloat16")
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    for dtype in (torch.float32, torch.float16, torch.float64):
        loaded = dict(RaggedModel(folder, dtype=dtype).model.named_parameters())
        assert {parameter.dtype for parameter in loaded.values()} == {dtype}
        torch.testing.assert_close(loaded["norm.weight"], stored.to(dtype), atol=0, rtol=0)


def test_generation_config_adds_end_of_sequence_ids(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert read_config(locate(str(folder))).eos_token_ids == (2, 5)


TOKENIZER = {
    "added_tokens": [{"id": 96, "content": "<s>"}, {"id": 5, "content": "</s>"}, {"id": 97, "content": "<x>"}],
    "model": {"vocab": {"the": 11}},
}
SHORT = {"model": {"vocab": {"a": 0, "b": 1}}}
UNIGRAM = {"model": {"vocab": [["<unk>", 0.0], ["</s>", 0.0], ["a", -1.5]]}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"eos_token": "</s>"}}, (5,)),
        ({"tokenizer_config": {"eos_token": {"content": "</s>", "lstrip": False}}}, (5,)),
        ({"special_tokens_map": {"eos_token": "<s>"}}, (96,)),
        ({"tokenizer_config": {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": "<s>"}}, (5, 96)),
        ({"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "<s>"}}, (96,)),
        ({"tokenizer_config": {"eos_token": "<x>"}}, ()),
        ({"tokenizer_config": {"eos_token": "<y>"}}, ()),
        ({"tokenizer_config": {"eos_token": "the"}}, (11,)),
        ({"tokenizer": SHORT, "tokenizer_config": {"eos_token": "<y>"}}, (2,)),
        ({"tokenizer": SHORT, "tokenizer_config": {"eos_token": "<y>", "bos_token": "<z>"}}, (3,)),
        ({"tokenizer": SHORT, "tokenizer_config": {"eos_token": "<y>"}, "added_tokens": {"<z>": 2, "<y>": 3}}, (3,)),
        ({"tokenizer": UNIGRAM, "tokenizer_config": {"eos_token": "</s>"}}, (1,)),
        ({"tokenizer_config": {}}, ()),
        ({}, ()),
    ],
)
def test_what_the_tokenizers_files_call_the_end_of_a_sequence_ends_it_beside_what_the_configs_name(
    tmp_path: Path, files: dict[str, Any], expected: tuple[int, ...]
) -> None:
    folder = make_llama(tmp_path, eos_token_id=None)
    for name, content in {"tokenizer": TOKENIZER, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    assert read_config(locate(str(folder))).eos_token_ids == expected
    change_config(folder, eos_token_id=7)
    assert read_config(locate(str(folder))).eos_token_ids == (7, *expected)
    (folder / "generation_config.json").write_text('{"eos_token_id": [8, 5]}')
    assert read_config(locate(str(folder))).eos_token_ids == tuple(dict.fromkeys((7, 8, 5, *expected)))


def test_a_checkpoint_without_a_tokenizer_may_have_no_end_of_sequence(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, eos_token_id=None)
    assert read_config(locate(str(folder))).eos_token_ids == ()
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert read_config(locate(str(folder))).eos_token_ids == ()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_file_that_would_name_the_end_of_sequence_is_named(tmp_path: Path, name: str) -> None:
    folder = make_llama(tmp_path, eos_token_id=None)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (folder / name).write_text("[")
    with pytest.raises(ModelError, match=name):
        read_config(locate(str(folder)))


def test_tensors_that_models_carry_without_need_are_ignored(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, tie_word_embeddings=True)
    change_tensors(
        folder,
        lm_head__weight=torch.zeros(97, 32),
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4),
    )
    RaggedModel(folder)


def test_an_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    change_tensors(folder, model__layers__0__self_attn__q_norm__weight=torch.ones(8))
    with pytest.raises(ModelError, match=r"model\.safetensors .*1 are unknown \(model\.layers\.0\.self_attn\.q_norm"):
        RaggedModel(folder)


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    change_tensors(folder, removed="model.layers.1.mlp.down_proj.weight")
    with pytest.raises(ModelError, match=r"1 tensors are missing \(model\.layers\.1\.mlp\.down_proj\.weight\)"):
        RaggedModel(folder)


def test_a_tensor_of_another_shape_is_refused_with_file_and_both_shapes(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    change_tensors(folder, lm_head__weight=torch.zeros(90, 32))
    with pytest.raises(ModelError, match=r"'lm_head\.weight' in .*model\.safetensors.*\[90, 32\].*\[97, 32\]"):
        RaggedModel(folder)


def test_an_integer_tensor_is_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    change_tensors(folder, lm_head__weight=torch.zeros(97, 32, dtype=torch.int8))
    with pytest.raises(ModelError, match=r"lm_head\.weight.*int8"):
        RaggedModel(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        RaggedModel(folder)


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, max_shard_size="20KB")
    (folder / INDEX).unlink()
    with pytest.raises(ModelError, match=INDEX):
        RaggedModel(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_an_unusable_index_is_named(tmp_path: Path, content: str) -> None:
    folder = make_llama(tmp_path)
    (folder / INDEX).write_text(content)
    with pytest.raises(ModelError, match=INDEX):
        RaggedModel(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors files"):
        RaggedModel(folder)


@pytest.mark.parametrize("kept", [0, 5, 100, 30_000])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    folder = make_llama(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        RaggedModel(folder)


def test_a_corrupt_header_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"#" * 32
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        RaggedModel(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_config_that_is_not_json_is_named(tmp_path: Path, name: str) -> None:
    folder = make_llama(tmp_path)
    (folder / name).write_text("{nonsense")
    with pytest.raises(ModelError, match=name):
        RaggedModel(folder)
