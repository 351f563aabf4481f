"""GGUF's blocks become groups with the file's own numbers, in any order of rows and on any number of threads."""

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from gguf_files import make_gguf
from octavo.checkpoints.gguf import GGUFTensors
from octavo.checkpoints.gguf_groups import BLOCK_TYPES, grouped_rows
from octavo.checkpoints.gguf_header import read_header
from octavo.kernels import _cpu
from tiny_checkpoints import make_llama

OF_EACH_TYPE = pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: kind.name)
NAME = "model.layers.0.mlp.up_proj.weight"


def random_rows(kind: Kind, num_rows: int, num_blocks: int) -> np.ndarray:
    """Bytes that are blocks: any are. Some scales are no numbers."""
    generator = np.random.default_rng(kind)
    return generator.integers(0, 256, (num_rows, gguf.GGML_QUANT_SIZES[kind][1] * num_blocks), np.uint8)


def outputs(kind: Kind, num_rows: int, num_inputs: int) -> dict[str, Any]:
    """Memory for codes, scales and minimums."""
    form = BLOCK_TYPES[kind]
    codes = np.zeros((num_rows, num_inputs * form.bits // 8), np.uint8)
    scales = np.zeros((num_rows, num_inputs // form.group), np.float32)
    return {"codes": codes, "scales": scales, "minimums": scales.copy() if form.has_minimums else None}


@OF_EACH_TYPE
@pytest.mark.parametrize(("num_rows", "num_blocks"), [(1, 1), (7, 3), (301, 5)])
def test_rows_in_any_order_are_what_the_gguf_package_makes_of_them(kind: Kind, num_rows: int, num_blocks: int) -> None:
    stored = random_rows(kind, num_rows, num_blocks)
    stored.flags.writeable = False
    order = np.append(np.random.default_rng(0).permutation(num_rows), num_rows // 2)
    num_inputs = gguf.GGML_QUANT_SIZES[kind][0] * num_blocks
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(stored[order], kind)
    rows = grouped_rows(stored, order, kind, num_inputs)
    assert rows.form == BLOCK_TYPES[kind]
    np.testing.assert_array_equal(rows.dequantized().numpy(), expected)


def test_each_float16_is_read_as_numpy_reads_it() -> None:
    """In a block of Q8_0 it comes first."""
    stored = np.zeros((1 << 16, 34), np.uint8)
    halves = np.arange(1 << 16, dtype="<u2")
    stored[:, :2] = halves.view(np.uint8).reshape(-1, 2)
    scales = grouped_rows(stored, np.arange(1 << 16), Kind.Q8_0, 32).scales.numpy()[:, 0]
    np.testing.assert_array_equal(scales, halves.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(np.signbit(scales), halves >= 1 << 15)


def test_each_exponent_of_mxfp4_is_read_as_the_gguf_package_reads_it() -> None:
    stored = np.zeros((256, 17), np.uint8)
    stored[:, 0] = np.arange(256)
    scales = grouped_rows(stored, np.arange(256), Kind.MXFP4, 32).scales.numpy()
    np.testing.assert_array_equal(scales, gguf.quants.MXFP4.e8m0_to_fp32_half(stored[:, :1]))


@OF_EACH_TYPE
def test_several_threads_decode_the_bits_that_one_does(kind: Kind) -> None:
    elements, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    num_blocks = 4096 // elements
    num_rows = (1 << 20) // (num_bytes * num_blocks)  # several tasks for each thread
    stored, order = random_rows(kind, num_rows, num_blocks), np.arange(num_rows)[::-1].copy()
    wanted = outputs(kind, num_rows, 4096)
    _cpu.decode_gguf(_cpu.ThreadPool(1), kind, stored, order, **wanted)
    for num_threads in (2, 5):
        own = outputs(kind, num_rows, 4096)
        _cpu.decode_gguf(_cpu.ThreadPool(num_threads), kind, stored, order, **own)
        for name, array in own.items():
            assert array is None or array.tobytes() == wanted[name].tobytes()


def arguments() -> dict[str, Any]:
    """Four rows of two blocks of Q4_K."""
    return {"stored": random_rows(Kind.Q4_K, 4, 2), "order": np.arange(4)} | outputs(Kind.Q4_K, 4, 512)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stored": np.zeros((4, 287), np.uint8)},
        {"stored": np.zeros((4, 144), np.uint8)},
        {"order": np.arange(3)},
        {"order": np.array([0, 1, 2, 4])},
        {"order": np.array([0, 1, 2, -1])},
        {"codes": np.zeros((3, 256), np.uint8)},
        {"codes": np.zeros((4, 512), np.uint8)},
        {"scales": np.zeros((4, 15), np.float32)},
        {"minimums": np.zeros((4, 17), np.float32)},
        {"minimums": None},
        {"ggml_type": Kind.Q6_K},
        {"ggml_type": Kind.F16},
        {"ggml_type": Kind.IQ2_XXS},
        {"ggml_type": -1},
    ],
    ids=lambda wrong: " ".join(f"{name} {getattr(value, 'shape', value)}" for name, value in wrong.items()),
)
def test_arrays_of_other_sizes_unknown_types_and_rows_that_are_not_there_are_refused(wrong: dict[str, Any]) -> None:
    threads = _cpu.ThreadPool(1)
    _cpu.decode_gguf(threads, **({"ggml_type": Kind.Q4_K} | arguments()))
    with pytest.raises(ValueError, match=r"sizes|not stored|don't become groups"):
        _cpu.decode_gguf(threads, **({"ggml_type": Kind.Q4_K} | arguments() | wrong))


def test_an_output_that_would_have_to_be_copied_is_refused() -> None:
    for wrong in ({"codes": np.zeros((4, 512), np.uint8)[:, ::2]}, {"scales": np.zeros((4, 16))}):
        with pytest.raises(TypeError):
            _cpu.decode_gguf(_cpu.ThreadPool(1), **({"ggml_type": Kind.Q4_K} | arguments() | wrong))


def test_without_the_extension_matrices_are_dequantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path, intermediate_size=64), Kind.Q8_0)
    source = GGUFTensors(read_header(path), num_layers=1, head_dim=8, wanted=[NAME])
    assert source.form(NAME) == BLOCK_TYPES[Kind.Q8_0]
    ((_, kept),) = source.slices(NAME, range(64))
    monkeypatch.setitem(sys.modules, "octavo.kernels._cpu", None)
    assert source.form(NAME) is None
    ((_, widened),) = source.slices(NAME, range(64))
    assert isinstance(widened, torch.Tensor)
    assert not isinstance(kept, torch.Tensor)
    assert torch.equal(widened, kept.dequantized())
