"""`--weight-cache`: a second start maps what the first has packed, and never what belongs to other weights."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.checkpoints.folder import open_folder
from octavo.checkpoints.locate import locate
from octavo.config import EngineConfig
from octavo.execution.model_memory import HostMemory
from octavo.kernels.cpu import CpuKernels
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import read_config
from octavo.models.packed_key import packed_file_name, packed_key
from tiny_checkpoints import make_checkpoint, make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

MAPPED = "packed weights are mapped from"
Answer = list[tuple[int, float]]
Start = Callable[..., Answer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("model"), tie_word_embeddings=True)


def start(folder: Path, cache: Path | str, **knobs: Any) -> Answer:
    """The tokens of an answer with their logprobs, from an engine of its own."""
    small: dict[str, Any] = {"tokenizer": "smollm2", "kv_cache_memory": "1MiB", "num_threads": 1}
    with LLM(str(folder), weight_cache=str(cache), **small, **knobs) as llm:
        params = SamplingParams(temperature=0, max_tokens=12, logprobs=0, ignore_eos=True)
        (output,) = llm.generate([list(range(3, 40))], params)
        completion = output.outputs[0]
        entries = completion.logprobs or []
        return [(token, entry[token].logprob) for token, entry in zip(completion.token_ids, entries, strict=True)]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What has been logged since the last time."""
    caplog.set_level(logging.INFO, "octavo.kernels.packed_weights")

    def messages() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return messages


@pytest.mark.parametrize(
    "knobs", [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4"}], ids=str
)
def test_a_second_start_maps_the_weights_and_gives_the_same_bits(
    folder: Path, tmp_path: Path, told: Callable[[], list[str]], knobs: dict[str, Any]
) -> None:
    without = start(folder, "off", **knobs)
    assert start(folder, tmp_path / "cache", **knobs) == without
    (file,) = (tmp_path / "cache").iterdir()
    (kept,) = told()
    assert f"packed weights are kept in {file}" in kept
    written = file.stat()
    assert start(folder, tmp_path / "cache", **knobs) == without
    (mapped,) = told()
    assert f"{MAPPED} {file}" in mapped
    assert os.path.samestat(file.stat(), written)
    assert file.stat().st_mtime_ns == written.st_mtime_ns


def test_experts_are_mapped_too(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    folder = make_checkpoint(tmp_path / "model", "MixtralForCausalLM", "all experts, a window")
    first, second = (start(folder, tmp_path / "cache", quantization="int8") for _ in range(2))
    assert first == second
    assert MAPPED in told()[-1]


def test_weights_that_have_changed_are_packed_anew(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    """Those of the same size and with the same times, as in an image of a container."""
    folder = make_llama(tmp_path / "model")
    file = folder / "model.safetensors"
    start(folder, tmp_path / "cache")
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-4000:] = content[-8000:-4000]
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    told()
    changed = start(folder, tmp_path / "cache")
    assert changed == start(folder, "off")
    assert not any(MAPPED in message for message in told())
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the new file has taken the old one's place"


def test_forms_have_files_of_their_own(folder: Path, tmp_path: Path, told: Callable[[], list[str]]) -> None:
    for knobs in ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantization": "int8"}):
        start(folder, tmp_path, **knobs)
    assert not any(MAPPED in message for message in told())
    assert len(list(tmp_path.iterdir())) == 3


def test_a_key_differs_with_all_that_packed_weights_depend_on(folder: Path) -> None:
    checkpoint = locate(str(folder))
    config, source = read_config(checkpoint), open_folder(folder, "auto")
    build = ModelBuild(torch.float32, torch.device("cpu"), CpuKernels("portable"))
    builds = [
        build,
        replace(build, dtype=torch.bfloat16),
        replace(build, quantization="int8"),
        replace(build, kernels=CpuKernels("avx2")),
        replace(build, tensor_parallel=TensorParallel(0, 2)),
        replace(build, tensor_parallel=TensorParallel(1, 2)),
    ]
    keys = [packed_key(checkpoint, source, config, each, 0) for each in builds]
    keys += [packed_key(checkpoint, source, replace(config, num_key_value_heads=4), build, 0)]
    keys += [packed_key(None, source, config, build, seed) for seed in (0, 1)]
    assert len(set(keys)) == len(keys)
    assert len({packed_file_name(checkpoint, config, each) for each in builds}) == len(builds)
    assert packed_key(checkpoint, open_folder(folder, "auto"), config, build, 0) == keys[0]


@pytest.mark.parametrize("length", [0, 100_000, None], ids=["empty", "cut short", "a bit"])
def test_a_damaged_file_is_told_of_and_made_again(
    folder: Path, tmp_path: Path, told: Callable[[], list[str]], length: int | None
) -> None:
    without = start(folder, tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[70_000] ^= 1
    file.write_bytes(content[:length])
    told()
    assert start(folder, tmp_path) == without
    damaged, kept = told()
    assert f"{file} is damaged" in damaged
    assert "are kept in" in kept
    assert start(folder, tmp_path) == without
    assert MAPPED in told()[0]


def test_a_folder_that_cannot_be_written_is_told_of_and_the_engine_starts(
    folder: Path, tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    (tmp_path / "file").touch()
    assert start(folder, tmp_path / "file") == start(folder, "off")
    assert any("packed weights are not kept" in message and "--weight-cache" in message for message in told())


def test_off_writes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    start(folder, "off")
    start(folder, EngineConfig().weight_cache)
    assert not list(tmp_path.rglob("*.packed"))
    assert not (tmp_path / "off").exists()


def test_kernels_that_pack_nothing_say_so(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(folder, tmp_path / "cache", kernels="reference")
    assert "kernels 'reference' do not pack weights" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_mapped_weights_do_not_count_as_free_memory() -> None:
    memory = HostMemory(EngineConfig(), TensorParallel())
    assert memory.for_cache(lambda: None, 0, mapped_bytes=2**60).free_bytes == 0
