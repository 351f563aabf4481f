"""Checkpoints of AWQ, GPTQ and compressed-tensors: the numbers that they stand for, and logits of weights that stay
as they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grouped_logits import TOLERANCE, forms, mean_error, tokens
from octavo.checkpoints.locate import Checkpoint, locate
from octavo.config import Quantization
from octavo.errors import ConfigError, ModelError
from octavo.kernels.cpu import CpuKernels
from octavo.models.loader import read_config, resolve_quantization
from packed_files import Scheme, pack_folder
from parallel_ranks import check_grouped_llama, on_ranks
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 192, "initializer_range": 0.1}
SCHEMES = {
    "AWQ": Scheme("awq"),
    "GPTQ, symmetric": Scheme("gptq", has_zeros=False),
    "GPTQ, with zero points": Scheme("gptq"),
    "GPTQ of the second version": Scheme("gptq", version="gptq_v2"),
    "GPTQ of 8 bits": Scheme("gptq", bits=8, has_zeros=False),
    "GPTQ of 8 bits with zero points": Scheme("gptq", bits=8, group=64),
    "GPTQ, all inputs of one scale": Scheme("gptq", group=-1, has_zeros=False),
    "compressed-tensors": Scheme("compressed-tensors", has_zeros=False),
    "compressed-tensors with zero points": Scheme("compressed-tensors", group=64),
    "compressed-tensors, a scale a channel": Scheme("compressed-tensors", group=-1, has_zeros=False),
    "compressed-tensors of 8 bits": Scheme("compressed-tensors", bits=8, group=-1, has_zeros=False),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_a_packed_checkpoint_is_its_numbers_and_stays_packed(tmp_path: Path, scheme: Scheme) -> None:
    packed, plain = pack_folder(make_llama(tmp_path / "model", **WIDE), tmp_path, scheme)
    expected, widened = RaggedModel(plain), RaggedModel(packed)
    numbers = dict(widened.model.named_parameters())
    for name, parameter in expected.model.named_parameters():
        torch.testing.assert_close(numbers[name], parameter, rtol=1e-6, atol=1e-7, msg=name)
    kept, row = RaggedModel(packed, quantization="auto", kernels=CpuKernels()), {"row": tokens(30, 1)}
    assert set(forms(kept.model).values()) == {scheme.bits}
    assert mean_error(kept.step(row)["row"], expected.step(row)["row"]) < TOLERANCE


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors"])
def test_groups_of_inputs_from_everywhere_are_dequantized(tmp_path: Path, method: str) -> None:
    scheme = Scheme(method, has_zeros=False, act_order=True)
    packed, plain = pack_folder(make_llama(tmp_path / "model", **WIDE), tmp_path, scheme)
    model, row = RaggedModel(packed, quantization="auto"), {"row": tokens(20, 2)}
    assert not forms(model.model)
    torch.testing.assert_close(model.step(row)["row"], RaggedModel(plain).step(row)["row"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_packed_checkpoint_split_over_two_ranks_gives_the_logits_of_one(tmp_path: Path, method: str) -> None:
    packed, plain = pack_folder(make_llama(tmp_path / "model", **WIDE), tmp_path, Scheme(method))
    token_ids = tokens(21, 3)
    exact = RaggedModel(plain).step({"row": token_ids})["row"]
    on_ranks(2, check_grouped_llama, tmp_path, packed, token_ids, exact, TOLERANCE)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"quant_method": "bitsandbytes"}, r"'bitsandbytes'.*awq, gptq and compressed-tensors"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, r"AWQ.*'gemv'"),
        ({"quant_method": "gptq", "bits": 3}, r"GPTQ weights of 3 bits"),
        ({"quant_method": "gptq"}, r"quantization_config.*bits"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*": {"bits": 8}}}, r"dynamic"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, r"'marlin-24'.*'pack-quantized'"),
    ],
)
def test_a_packing_that_is_not_read_is_refused_by_name(tmp_path: Path, asked: dict[str, Any], told: str) -> None:
    folder = make_llama(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": asked}))
    with pytest.raises(ModelError, match=told):
        read_config(locate(str(folder)))


def test_a_missing_part_of_a_packed_matrix_is_told_by_name(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model", **WIDE)
    packed, _ = pack_folder(folder, tmp_path, Scheme("compressed-tensors", has_zeros=False))
    tensors = load_file(packed / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj.*there is no tensor.*weight_scale"):
        RaggedModel(packed, quantization="auto")


def test_a_kind_of_checkpoint_is_auto_for_such_and_refused_for_others(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model", **WIDE)
    packed, _ = pack_folder(folder, tmp_path, Scheme("awq"))
    awq, plain = locate(str(packed)), locate(str(folder))
    assert resolve_quantization("awq", awq, read_config(awq)) == "auto"
    assert resolve_quantization("int8", awq, read_config(awq)) == "int8"
    refused: list[tuple[Quantization, Checkpoint, str]] = [("gptq", awq, "by awq"), ("awq", plain, "not packed")]
    for name, checkpoint, told in refused:
        with pytest.raises(ConfigError, match=rf"--quantization {name}.*{told}"):
            resolve_quantization(name, checkpoint, read_config(checkpoint))
