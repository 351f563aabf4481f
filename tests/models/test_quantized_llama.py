"""A model whose products are int8 or fp8: close to its float self, from any checkpoint, on any number of ranks."""

import random
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from gguf_files import make_gguf
from octavo.config import Quantization
from octavo.kernels.quantized import quantize_rows
from octavo.models.registry import CausalLM
from parallel_ranks import check_quantized_llama, on_ranks
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS: dict[str, dict[str, Any]] = {
    "tied embeddings": {"tie_word_embeddings": True},
    "a head of its own": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
}
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 224, "initializer_range": 0.1}
TOLERANCE = 0.06
"""Of the logits' spread. Each product of a random model rounds at about 0.9 %, and nine follow each other; a wrong
scale anywhere is an error of tens of percents."""
FP8_TOLERANCE = 0.2
"""A number of three bits behind the first is four times as coarse as int8's largest."""


def tokens(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(97) for _ in range(count)]


def quantized_weights(model: CausalLM) -> set[str]:
    return {name.removesuffix(".values") for name, _ in model.named_parameters() if name.endswith(".values")}


def mean_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the expected logits' spread."""
    return float((actual.float() - expected).abs().mean() / expected.std())


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", TOLERANCE), ("fp8", FP8_TOLERANCE)])
def test_weights_of_8_bits_give_logits_close_to_the_float_ones(
    tmp_path: Path, overrides: dict[str, Any], quantization: Quantization, tolerance: float
) -> None:
    folder, token_ids = make_llama(tmp_path, **WIDE, **overrides), tokens(40, 1)
    exact = RaggedModel(folder).step({"row": token_ids})["row"]
    ours = RaggedModel(folder, quantization=quantization).step({"row": token_ids})["row"]
    assert ours.dtype == torch.float32
    assert not torch.equal(ours, exact)
    assert mean_error(ours, exact) < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_activations_keep_the_models_dtype_around_int8_products(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, token_ids = make_llama(tmp_path, **WIDE, tie_word_embeddings=True), tokens(30, 2)
    exact = RaggedModel(folder).step({"row": token_ids})["row"]
    ours = RaggedModel(folder, dtype=dtype, quantization="int8").step({"row": token_ids})["row"]
    assert ours.dtype == dtype
    assert mean_error(ours, exact) < TOLERANCE


def test_an_int8_cache_gives_logits_close_to_those_of_a_float_one_in_prefill_and_decode(tmp_path: Path) -> None:
    folder, token_ids = make_llama(tmp_path, **WIDE), tokens(40, 3)
    exact = RaggedModel(folder).step({"row": token_ids})["row"]
    model = RaggedModel(folder, cache_dtype=torch.int8)
    logits = [model.step({"row": token_ids[:31]})["row"]]
    logits += [model.step({"row": [token]})["row"] for token in token_ids[31:]]
    assert mean_error(torch.cat(logits), exact) < 0.02


def test_a_tokens_logits_do_not_depend_on_how_its_row_is_chunked(tmp_path: Path) -> None:
    """Integer sums are exact; in float64 what is left over stays far below a rounding step."""
    folder, token_ids = make_llama(tmp_path, **WIDE), tokens(24, 4)
    model = RaggedModel(folder, dtype=torch.float64, quantization="int8")
    whole = model.step({"whole": token_ids})["whole"]
    chunks = [model.step({"chunked": token_ids[at : at + 5]})["chunked"] for at in range(0, 24, 5)]
    torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-5, rtol=0)


def test_products_are_quantized_once_each_and_all_else_keeps_its_dtype(tmp_path: Path) -> None:
    tied = RaggedModel(make_llama(tmp_path / "tied", tie_word_embeddings=True), quantization="int8").model
    untied = RaggedModel(make_llama(tmp_path / "untied", attention_bias=True), quantization="int8").model
    of_a_layer = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    in_layers = {f"layers.{index}.{name}.weight" for index in range(2) for name in of_a_layer}
    assert quantized_weights(tied) == in_layers | {"embed_tokens.weight"}
    assert quantized_weights(untied) == in_layers | {"lm_head.table.weight"}
    for name, parameter in untied.named_parameters():
        assert parameter.dtype == (torch.int8 if name.endswith(".values") else torch.float32), name


def test_weights_from_a_gguf_are_quantized_as_those_from_safetensors(tmp_path: Path) -> None:
    folder, token_ids = make_llama(tmp_path / "model", **WIDE), tokens(20, 5)
    path = make_gguf(tmp_path / "model.gguf", folder, gguf.GGMLQuantizationType.F32)
    from_folder = RaggedModel(folder, quantization="int8").step({"row": token_ids})["row"]
    from_gguf = RaggedModel(path, quantization="int8").step({"row": token_ids})["row"]
    torch.testing.assert_close(from_gguf, from_folder, atol=1e-5, rtol=0)


def test_a_weight_loaded_in_pieces_is_the_one_quantized_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavo.kernels.quantizing.QUANTIZED_AT_ONCE", 7 * 32)
    folder = make_llama(tmp_path, tie_word_embeddings=True)
    exact = dict(RaggedModel(folder).model.named_parameters())["embed_tokens.weight"]
    pieces = dict(RaggedModel(folder, quantization="int8").model.named_parameters())
    values, scales = quantize_rows(exact)
    assert torch.equal(pieces["embed_tokens.weight.values"], values)
    assert torch.equal(pieces["embed_tokens.weight.scales"], scales)


def test_an_int8_checkpoint_split_over_two_ranks_is_as_close_to_the_float_one(tmp_path: Path) -> None:
    folder, token_ids = make_llama(tmp_path / "model", **WIDE, tie_word_embeddings=True), tokens(21, 6)
    exact = RaggedModel(folder).step({"row": token_ids})["row"]
    on_ranks(2, check_quantized_llama, tmp_path, folder, token_ids, exact, TOLERANCE)
