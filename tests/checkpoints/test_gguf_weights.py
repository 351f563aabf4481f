"""A GGUF file gives the model that it was made from; a broken one gives an error that names it."""

import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from gguf_files import make_gguf
from octavo.checkpoints.gguf import GGUFTensors
from octavo.checkpoints.gguf_config import config_fields
from octavo.checkpoints.gguf_header import read_header
from octavo.checkpoints.locate import locate
from octavo.checkpoints.source import as_numbers
from octavo.errors import ModelError
from octavo.models.loader import read_config
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

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


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_a_quantized_matrix_is_what_the_gguf_package_makes_of_it(tmp_path: Path, name: str) -> None:
    quantization = gguf.GGMLQuantizationType[name]
    folder = make_llama(tmp_path, hidden_size=64, intermediate_size=96)
    path = make_gguf(tmp_path / "model.gguf", folder, quantization)
    model = RaggedModel(path)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.1.ffn_down.weight"]
    loaded = dict(model.model.named_parameters())["layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(loaded.numpy(), gguf.quants.dequantize(stored.data, quantization))


def random_bytes(quantization: gguf.GGMLQuantizationType) -> np.ndarray:
    """Six rows of three blocks each."""
    elements, num_bytes = gguf.GGML_QUANT_SIZES[quantization]
    generator = np.random.default_rng(quantization)
    return generator.integers(0, 256, (6, num_bytes * (3 if elements > 1 else 96)), np.uint8)


def test_every_type_that_the_gguf_package_dequantizes_is_read_and_the_others_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {kind.name: random_bytes(kind) for kind in gguf.GGMLQuantizationType}
    writer = gguf.GGUFWriter(tmp_path / "types.gguf", "llama")
    for name, rows in stored.items():
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = GGUFTensors(read_header(tmp_path / "types.gguf"), num_layers=1, head_dim=8, wanted=())
    monkeypatch.setattr("octavo.checkpoints.gguf.SLICE_BYTES", 1)
    read = set()
    for name, rows in stored.items():
        try:
            with np.errstate(all="ignore"):
                expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])
                slices = dict(source.slices(name, range(6)))
            read.add(name)
            np.testing.assert_array_equal(
                np.concatenate([as_numbers(slices[row]).numpy() for row in range(6)]), expected
            )
        except NotImplementedError:
            with pytest.raises(ModelError, match=rf"tensor '{name}' in .*types\.gguf.*{name}"):
                list(source.slices(name, range(6)))
    assert read >= {"F32", "F16", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    assert read >= {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_S", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"}


def test_a_model_split_into_files_is_the_model_in_one(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    expected = RaggedModel(make_gguf(tmp_path / "whole.gguf", folder)).step({"row": TOKENS})["row"]
    make_gguf(tmp_path / "model.gguf", folder, tensors_per_file=8)
    assert len(list(tmp_path.glob("model-*-of-00003.gguf"))) == 3
    got = RaggedModel(tmp_path / "model-00001-of-00003.gguf").step({"row": TOKENS})["row"]
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_a_split_model_that_is_not_whole_is_refused_with_the_file_at_fault(tmp_path: Path) -> None:
    make_gguf(tmp_path / "model.gguf", make_llama(tmp_path), tensors_per_file=8)
    first, second, third = sorted(tmp_path.glob("model-*.gguf"))
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf is part 1 .*name the first \(--model\)"):
        read_header(second)
    with pytest.raises(ModelError, match=r"alone\.gguf .*must end in -00001-of-00003\.gguf"):
        read_header(first.rename(tmp_path / "alone.gguf"))
    (tmp_path / "alone.gguf").rename(first)
    third.rename(tmp_path / "third")
    with pytest.raises(ModelError, match=r"missing: .*model-00003-of-00003\.gguf"):
        read_header(first)
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelError, match=r"model-00003-of-00003\.gguf says that it is part 1 of 3, not 2 of 3"):
        read_header(first)


def test_a_file_cut_into_pieces_is_read_as_if_it_were_whole(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path))
    whole, pieces = read_header(path), []
    for number, start in enumerate(range(0, path.stat().st_size, 10_007)):
        pieces.append(tmp_path / f"model.gguf.part{number:02}")
        pieces[-1].write_bytes(path.read_bytes()[start : start + 10_007])
    joined = read_header(*pieces)
    crossing = 0
    for name, info in joined.tensors.items():
        own = whole.tensors[name]
        np.testing.assert_array_equal(info.read_rows(range(info.num_rows)), own.read_rows(range(own.num_rows)))
        crossing += info.offset // 10_007 < (info.offset + info.num_rows * info.row_bytes - 1) // 10_007
    assert crossing > 3
    with pytest.raises(ModelError, match=r"ends at byte"):
        read_header(*pieces[:-1])


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.up_proj.weight"])
def test_a_range_of_rows_is_read_in_slices_as_in_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = make_llama(tmp_path, intermediate_size=64)
    header = read_header(make_gguf(tmp_path / "model.gguf", folder, gguf.GGMLQuantizationType.Q8_0))
    config = read_config(locate(str(tmp_path / "model.gguf")))
    source = GGUFTensors(header, config.num_hidden_layers, config.head_dim, [name])
    ((_, whole),) = source.slices(name, range(source.shape(name)[0]))
    monkeypatch.setattr("octavo.checkpoints.gguf.SLICE_BYTES", 34 * 3)
    pieces = list(source.slices(name, range(2, 13)))
    assert [start for start, _ in pieces] == [2, 5, 8, 11]
    torch.testing.assert_close(
        torch.cat([as_numbers(values) for _, values in pieces]), as_numbers(whole)[2:13], atol=0, rtol=0
    )


def test_all_end_tokens_of_the_metadata_end_a_sequence(tmp_path: Path) -> None:
    metadata = {"tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 8}
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path), metadata=metadata)
    config = read_config(locate(str(path)))
    assert config.eos_token_ids == (2, 9, 8)
    assert config.checkpoint_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tokens", "types", "expected"),
    [
        (["a", "b", "</s>", "<|end|>", "<end_of_turn>"], [1, 1, 3, 3, 3], (2, 3, 4)),
        (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [3, 3, 3], (2, 0)),
        (["<|end_of_text|>", "<|eom_id|>", "a", "<|eot_id|>"], None, (2, 0, 1, 3)),
        (["<|fim_pad|>", "<|repo_name|>", "a", "<|file_sep|>"], [3, 3, 1, 4], (2, 0, 1, 3)),
        (["a", "</s>", "<eos>"], [1, 4, 3], (2,)),
        (["a", "</s>", "b"], [1, 3, 1], (2, 1)),
        (["<|return|>", "<|end|>", "a", "<|call|>"], [3, 3, 1, 3], (2, 0, 3)),
        (["<|calls|>", "<|end|>", "a", "<|flush|>"], [3, 3, 1, 3], (2, 0, 3)),
        (["<|tool_response>", "</s>", "<turn|>"], [3, 3, 3], (2, 0)),
        (["<｜end▁of▁sentence｜>", "a", "b"], [3, 1, 1], (2, 0)),
    ],
)
def test_tokens_known_as_ends_by_their_text_end_a_sequence_beside_those_of_the_metadata(
    tmp_path: Path, tokens: list[str], types: list[int] | None, expected: tuple[int, ...]
) -> None:
    metadata: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    if types is not None:
        metadata["tokenizer.ggml.token_type"] = types
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path), metadata=metadata)
    assert read_config(locate(str(path))).eos_token_ids == expected


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("general.architecture", "zebra", r"zebra.*known ones: llama"),
        ("llama.rope.scaling.type", "martian", r"martian.*default, linear, llama3"),
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
    monkeypatch.setattr("octavo.checkpoints.gguf_header.read_header", lambda *_: header)
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
    monkeypatch.setattr("octavo.checkpoints.gguf_header.read_header", lambda *_: header)
    with pytest.raises(ModelError, match=r"model\.gguf.*missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        RaggedModel(path)
