"""What is here already is taken as it is; of a folder of GGUF files the one that is meant."""

from pathlib import Path

import pytest
import torch

from octavo.checkpoints.locate import locate
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.errors import ConfigError, ModelError
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.loader import load_model, read_config


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("model", ["smollm2", "/nowhere/at/all", "tiny.gguf", "a/b/c", "~/models"])
def test_what_is_no_name_on_the_hub_is_left_as_it_is(model: str) -> None:
    config = EngineConfig(model=model)
    assert resolve_model(config) == config


def test_a_folder_called_like_a_model_on_the_hub_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "octavo" / "tiny").mkdir(parents=True)
    assert resolve_model(EngineConfig(model="octavo/tiny")).model == "octavo/tiny"


def test_a_folder_with_weights_of_its_own_is_not_searched_for_gguf_files(tmp_path: Path) -> None:
    config = EngineConfig(model=str(touch(tmp_path, "config.json", "model.safetensors", "a.gguf")))
    assert resolve_model(config) == config
    chosen = resolve_model(EngineConfig(model=str(tmp_path), load_format="gguf"))
    assert chosen.model == str(tmp_path / "a.gguf")


def test_of_several_gguf_files_the_named_one_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "a-Q4_K_M.gguf", "a-Q8_0-00002-of-00002.gguf", "a-Q8_0-00001-of-00002.gguf")
    for wanted in ("Q8_0", "a-q8", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"):
        found = resolve_model(EngineConfig(model=str(tmp_path), gguf_file=wanted))
        assert found.model == str(tmp_path / "a-Q8_0-00001-of-00002.gguf")
    for unclear in (None, "Q2", "a"):
        with pytest.raises(ModelError, match=r"a-Q4_K_M\.gguf, a-Q8_0-00001-of-00002\.gguf.*--gguf-file"):
            resolve_model(EngineConfig(model=str(tmp_path), gguf_file=unclear))


def test_a_gguf_file_is_not_read_as_anything_else() -> None:
    checkpoint = locate("smollm2")
    build = ModelBuild(torch.bfloat16, torch.device("cpu"), ReferenceKernels())
    with pytest.raises(ConfigError, match=r"--load-format safetensors.*\.gguf"):
        load_model(read_config(checkpoint), build, checkpoint, load_format="safetensors")
