"""A GGUF file gives the model that it was made from; a broken one gives an error that names it."""

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from checkpoints import make_gguf, make_llama
from octavo.errors import ModelError
from octavo.models.weights.gguf import GGUFTensors, config_fields
from octavo.models.weights.gguf_header import read_header
from octavo.models.weights.loader import read_config
from octavo.models.weights.locate import locate
from ragged_model import RaggedModel

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TOKENS = list(range(3, 40))


@pytest.mark.parametrize(
    "overrides",
    [{}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}, {"rope_parameters": LLAMA3}],
    ids=["grouped heads", "tied with biases", "llama3 rope"],
)
def test_a_float32_file_gives_the_logits_of_the_folder_it_was_made_from(
    tmp_path: Path, overrides: dict[str, Any]
) -> None:
    folder = make_llama(tmp_path, **overrides)
    path = make_gguf(tmp_path / "model.gguf", folder)
    expected = RaggedModel(folder).step({"row": TOKENS})["row"]
    torch.testing.assert_close(RaggedModel(path).step({"row": TOKENS})["row"], expected, atol=1e-4, rtol=0)


def test_linear_rope_scaling_is_read_from_the_metadata(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}
    folder = make_llama(tmp_path, rope_parameters=rope)
    metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 3.0}
    path = make_gguf(tmp_path / "model.gguf", folder, metadata=metadata)
    expected = RaggedModel(folder).step({"row": TOKENS})["row"]
    torch.testing.assert_close(RaggedModel(path).step({"row": TOKENS})["row"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_a_quantized_matrix_is_what_the_gguf_package_makes_of_it(tmp_path: Path, name: str) -> None:
    quantization = gguf.GGMLQuantizationType[name]
    folder = make_llama(tmp_path, hidden_size=64, intermediate_size=96)
    path = make_gguf(tmp_path / "model.gguf", folder, quantization)
    model = RaggedModel(path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.1.ffn_down.weight"]
    loaded = dict(model.model.named_parameters())["layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(loaded.numpy(), gguf.quants.dequantize(stored.data, quantization))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.up_proj.weight"])
def test_a_range_of_rows_is_read_in_slices_as_in_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = make_llama(tmp_path, intermediate_size=64)
    header = read_header(make_gguf(tmp_path / "model.gguf", folder, gguf.GGMLQuantizationType.Q8_0))
    config = read_config(locate(str(tmp_path / "model.gguf")))
    source = GGUFTensors(header, config, [name])
    ((_, whole),) = source.slices(name, range(source.shape(name)[0]))
    monkeypatch.setattr("octavo.models.weights.gguf.SLICE_BYTES", 4 * 32 * 3)
    pieces = list(source.slices(name, range(2, 13)))
    assert [start for start, _ in pieces] == [2, 5, 8, 11]
    torch.testing.assert_close(torch.cat([values for _, values in pieces]), whole[2:13], atol=0, rtol=0)


def test_all_end_tokens_of_the_metadata_end_a_sequence(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 8}
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path), metadata=metadata)
    config = read_config(locate(str(path)))
    assert config.eos_token_ids == (2, 9, 8)
    assert config.checkpoint_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "zebra", r"zebra.*known ones: llama"),
        ("llama.rope.scaling.type", "yarn", r"yarn.*default, linear, llama3"),
        ("llama.expert_count", 8, "num_experts=8"),
        ("llama.attention.sliding_window", 512, "sliding_window=512"),
        ("llama.rope.dimension_count", 4, r"rope\.dimension_count is 4"),
        ("llama.block_count", [1, 2], "num_hidden_layers"),
    ],
)
def test_metadata_that_asks_for_what_is_not_computed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, named: str
) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path))
    header = read_header(path)
    header.metadata[key] = value
    monkeypatch.setattr("octavo.models.weights.loader.read_header", lambda _: header)
    with pytest.raises(ModelError, match=named):
        RaggedModel(path)


def test_metadata_values_of_all_kinds_are_read(tmp_path: Path) -> None:
    arrays: dict[str, list[Any]] = {"a.strings": ["α", "", "b"], "a.numbers": [1, -2, 3], "a.floats": [0.5, 1.5]}
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_bool("a.bool", True)
    writer.add_int64("a.int64", -(2**40))
    writer.add_float64("a.float64", 0.1)
    for key, value in arrays.items():
        writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_header(path).metadata
    assert (read["a.bool"], read["a.int64"], read["a.float64"]) == (True, -(2**40), 0.1)
    assert {key: read[key] for key in arrays} == arrays


def test_a_file_cut_short_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    whole = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path)).read_bytes()
    path = tmp_path / "cut.gguf"
    generator = random.Random(0)
    for length in [0, 3, 23, *(generator.randrange(24, len(whole)) for _ in range(60)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            RaggedModel(path)


def test_a_header_with_a_flipped_byte_is_read_or_refused_but_never_worse(tmp_path: Path) -> None:
    whole = bytearray(make_gguf(tmp_path / "model.gguf", make_llama(tmp_path)).read_bytes())
    path = tmp_path / "flipped.gguf"
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[generator.randrange(1500)] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            config_fields(read_header(path))
        except ModelError as error:
            refused += "flipped.gguf" in str(error)
    assert refused > 50


def test_a_file_without_a_tensor_is_refused_naming_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path))
    header = read_header(path)
    del header.tensors["blk.1.ffn_up.weight"]
    monkeypatch.setattr("octavo.models.weights.loader.read_header", lambda _: header)
    with pytest.raises(ModelError, match=r"model\.gguf.*missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        RaggedModel(path)
