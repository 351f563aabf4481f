"""A model whose weights stay in 4 and 8 bits as a GGUF file has them: close to the one dequantized from that file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from gguf_files import make_gguf
from grouped_logits import TOLERANCE, forms, mean_error, tokens
from octavo.config import Quantization
from octavo.errors import ConfigError
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.parallel import TensorParallel
from parallel_ranks import check_grouped_llama, on_ranks
from ragged_model import RaggedModel
from tiny_checkpoints import make_checkpoint, make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

Kind = gguf.GGMLQuantizationType
Array = np.ndarray[Any, Any]
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "initializer_range": 0.05}
ONE_LAYER: dict[str, Any] = {**WIDE, "num_hidden_layers": 1}
WRITTEN = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.MXFP4]
FLOAT16S = {
    Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,),
    Kind.Q4_K: (0, 2),
    Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,),
    Kind.IQ4_NL: (0,),
    Kind.IQ4_XS: (0,),
}
"""Where blocks of types that the gguf package does not write have their float16s."""


def random_blocks(values: Array, kind: Kind) -> Array:
    """Random blocks of the matrix's shape and about its magnitude; what the package can write, as it writes it."""
    if kind not in FLOAT16S:
        return gguf.quants.quantize(values, kind)
    elements, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(len(values)).integers(0, 256, (values.size // elements, num_bytes), np.uint8)
    _set_float16s(blocks, kind, 1.0)
    _set_float16s(blocks, kind, 0.05 / float(gguf.quants.dequantize(blocks, kind).std()))
    return blocks.reshape(*values.shape[:-1], -1)


def _set_float16s(blocks: Array, kind: Kind, value: float) -> None:
    for at in FLOAT16S[kind]:
        blocks[:, at : at + 2] = np.array([value], np.float16).view(np.uint8)


@pytest.mark.parametrize("kind", [*WRITTEN, *FLOAT16S], ids=lambda kind: kind.name)
def test_logits_of_weights_kept_as_the_file_has_them_are_close_to_the_dequantized_ones(
    tmp_path: Path, kind: Kind
) -> None:
    folder = make_llama(tmp_path, tie_word_embeddings=True, **ONE_LAYER)
    path = make_gguf(tmp_path / "model.gguf", folder, kind, quantize=random_blocks)
    widened, row = RaggedModel(path), {"row": tokens(30, 1)}
    assert not forms(widened.model)
    expected = widened.step(row)["row"]
    for kernels in (ReferenceKernels(), CpuKernels()):
        kept = RaggedModel(path, quantization="auto", kernels=kernels)
        assert set(forms(kept.model).values()) == {8 if kind.name[1] in "568" else 4}
        assert "embed_tokens.weight" in forms(kept.model), "the head's table, too"
        assert 0 < mean_error(kept.step(row)["row"], expected) < TOLERANCE, kernels.name


def in_mixture(name: str) -> Kind:
    """As files called Q4_K_M are: values and every other down projection finer than the rest."""
    return Kind.Q8_0 if "attn_v" in name or "blk.1.ffn_down" in name else Kind.Q4_0


def test_parts_of_a_projection_in_unlike_forms_are_weights_of_their_own(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path, attention_bias=True, **WIDE), in_mixture)
    kept = RaggedModel(path, quantization="auto", kernels=CpuKernels())
    bits = forms(kept.model)
    assert bits["layers.0.self_attn.qkv_proj.weight.part0"] == 4, "queries and keys together"
    assert bits["layers.0.self_attn.qkv_proj.weight.part1"] == 8
    assert bits["layers.0.mlp.gate_up_proj.weight"] == 4
    assert bits["layers.1.mlp.down_proj.weight"] == 8
    row = {"row": tokens(30, 2)}
    assert mean_error(kept.step(row)["row"], RaggedModel(path).step(row)["row"]) < TOLERANCE


def test_a_projection_of_which_a_part_is_not_in_groups_is_widened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_gguf(
        tmp_path / "model.gguf", make_llama(tmp_path, **WIDE), lambda name: Kind.F16 if "attn_v" in name else Kind.Q4_0
    )
    kept = RaggedModel(path, quantization="auto")
    assert not any("qkv" in name for name in forms(kept.model))
    assert any("gate_up" in name for name in forms(kept.model))
    assert "4 matrices of few bits are of one projection with others in unlike forms" in caplog.text


def test_experts_keep_the_files_form_unless_their_gate_and_up_differ(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "MixtralForCausalLM", **WIDE)
    alike = make_gguf(tmp_path / "alike.gguf", folder, Kind.Q4_1)
    unlike = make_gguf(tmp_path / "unlike.gguf", folder, lambda name: Kind.Q8_0 if "_up" in name else Kind.Q4_0)
    row = {"row": tokens(20, 3)}
    for path, has_gate_up in ((alike, True), (unlike, False)):
        kept = RaggedModel(path, quantization="auto", kernels=CpuKernels())
        assert any("gate_up" in name for name in forms(kept.model)) == has_gate_up
        assert any("down" in name for name in forms(kept.model))
        assert mean_error(kept.step(row)["row"], RaggedModel(path).step(row)["row"]) < 2 * TOLERANCE


def test_a_file_of_4_bits_split_over_two_ranks_gives_the_logits_of_one(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path, **WIDE), in_mixture)
    token_ids = tokens(21, 4)
    exact = RaggedModel(path).step({"row": token_ids})["row"]
    on_ranks(2, check_grouped_llama, tmp_path, path, token_ids, exact, TOLERANCE)


def test_ranks_whose_inputs_would_cut_a_group_are_refused_by_name(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, **WIDE | {"intermediate_size": 96})
    path = make_gguf(tmp_path / "model.gguf", folder, Kind.Q4_0)
    half = TensorParallel(0, 2)
    with pytest.raises(ConfigError, match=r"down_proj.*groups of 32.*0 to 48 of its 96.*--quantization none"):
        RaggedModel(path, quantization="auto", tensor_parallel=half)


@pytest.mark.parametrize("quantization", ["int4", "int8"])
def test_weights_of_16_bits_are_quantized_while_they_load(tmp_path: Path, quantization: Quantization) -> None:
    folder, row = make_llama(tmp_path, **WIDE), {"row": tokens(30, 5)}
    model = RaggedModel(folder, quantization=quantization, kernels=CpuKernels())
    names = dict(model.model.named_parameters())
    assert ("layers.0.mlp.down_proj.weight.codes" in names) == (quantization == "int4")
    assert "lm_head.table.weight.values" in names, "a head stays in int8"
    error = mean_error(model.step(row)["row"], RaggedModel(folder).step(row)["row"])
    assert error < (0.25 if quantization == "int4" else 0.06)


def test_int4_keeps_what_the_file_has_in_4_bits_and_quantizes_the_rest(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path, **WIDE), in_mixture)
    row = {"row": tokens(30, 6)}
    kept, quantized = RaggedModel(path, quantization="auto"), RaggedModel(path, quantization="int4")
    assert set(forms(quantized.model).values()) == {4}
    for name, parameter in quantized.model.named_parameters():
        if "gate_up" in name:
            assert torch.equal(parameter, dict(kept.model.named_parameters())[name]), name
    assert mean_error(quantized.step(row)["row"], kept.step(row)["row"]) < 0.2
