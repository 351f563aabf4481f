"""Folders with torch's own files give the weights that safetensors do; code in them is not run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from octavo.checkpoints.locate import locate
from octavo.config import LoadFormat
from octavo.errors import ModelError
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.loader import load_model, read_config
from tiny_checkpoints import make_llama

WHOLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


def load(folder: Path, load_format: LoadFormat = "auto") -> dict[str, torch.nn.Parameter]:
    checkpoint = locate(str(folder))
    build = ModelBuild(torch.float32, torch.device("cpu"), ReferenceKernels())
    return dict(load_model(read_config(checkpoint), build, checkpoint, load_format=load_format).named_parameters())


def make_bin(folder: Path, num_files: int = 1, **options: Any) -> tuple[Path, dict[str, torch.nn.Parameter]]:
    """A tiny model in torch's files, and its weights as safetensors give them."""
    expected = load(make_llama(folder))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    if num_files == 1:
        torch.save(tensors, folder / WHOLE, **options)
        return folder, expected
    weight_map: dict[str, str] = {}
    for number in range(num_files):
        name = f"pytorch_model-{number + 1:05}-of-{num_files:05}.bin"
        names = list(tensors)[number::num_files]
        torch.save({each: tensors[each] for each in names}, folder / name)
        weight_map |= dict.fromkeys(names, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder, expected


@pytest.mark.parametrize(("num_files", "options"), [(1, {}), (3, {}), (1, {"_use_new_zipfile_serialization": False})])
def test_weights_in_torchs_files_are_those_of_safetensors(
    tmp_path: Path, num_files: int, options: dict[str, Any]
) -> None:
    folder, expected = make_bin(tmp_path, num_files, **options)
    loaded = load(folder)
    assert all(torch.equal(loaded[name], parameter) for name, parameter in expected.items())


def test_where_a_folder_has_both_the_format_can_be_chosen(tmp_path: Path) -> None:
    make_llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / WHOLE)
    cases: list[tuple[LoadFormat, int]] = [("auto", 0), ("safetensors", 0), ("bin", 1)]
    for load_format, added in cases:
        torch.testing.assert_close(load(tmp_path, load_format)["norm.weight"], tensors["model.norm.weight"] + added)
    (tmp_path / WHOLE).unlink()
    with pytest.raises(ModelError, match=r"has its weights as safetensors: change --load-format bin"):
        load(tmp_path, "bin")


def test_the_dtype_is_the_files_own_where_the_config_does_not_say(tmp_path: Path) -> None:
    make_bin(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": None}))
    assert read_config(locate(str(tmp_path))).checkpoint_dtype == torch.float32


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    make_bin(tmp_path)
    torch.save({"model.norm.weight": _RunsWhenRead(tmp_path / "ran")}, tmp_path / WHOLE)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin holds more than tensors.*not run as code"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


class _RunsWhenRead:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kept", [0, 5, 1000, 30_000])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    make_bin(tmp_path)
    path = tmp_path / WHOLE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"model.norm.weight": 1}, torch.ones(1)])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: object) -> None:
    make_bin(tmp_path)
    torch.save(content, tmp_path / WHOLE)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin must hold tensors by name"):
        load(tmp_path)


def test_an_unknown_missing_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    make_bin(tmp_path)
    tensors = torch.load(tmp_path / WHOLE, weights_only=True)
    for changed, message in (
        ({"lm_head.weight": torch.ones(90, 32)}, r"'lm_head\.weight' in .*\.bin has shape \[90, 32\].*\[97, 32\]"),
        ({"lm_head.weight": torch.ones(97, 32, dtype=torch.int8)}, r"lm_head\.weight.*int8"),
        ({"model.extra.weight": torch.ones(1)}, r"pytorch_model\.bin.*unknown \(model\.extra\.weight\)"),
    ):
        torch.save(tensors | changed, tmp_path / WHOLE)
        with pytest.raises(ModelError, match=message):
            load(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder, _ = make_bin(tmp_path, num_files=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of the 3 files.*pytorch_model-00002-of-00003\.bin"):
        load(folder)
