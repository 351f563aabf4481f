"""What `octavo doctor` tells of a GPU. torch's answers about it are stood in for: there is none here."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from cli.commands import octavo
from octavo.cli.gpus import software_rows
from tiny_checkpoints import make_llama

MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(make_llama(tmp_path))


@pytest.fixture
def gpu(folder: str, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU with 1,000 MiB, of which 900 are free, from when the model is there."""
    state = SimpleNamespace(free=900 * MIB, total=1000 * MIB)
    answers: dict[str, Callable[..., object]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "NVIDIA H100",
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (state.free, state.total),
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return state


def test_a_gpus_memory_is_told_by_what_takes_it(folder: str, gpu: SimpleNamespace) -> None:
    done = octavo("doctor", "--model", folder, "--device", "cuda")
    assert done.returncode == 0, done.stderr
    for words in (
        "GPU cuda:0               NVIDIA H100, compute capability 9.0, 900 MiB free of 1,000 MiB",
        "triton                   3.",
        "Kernels 'triton' on cuda:0",
        "Memory of cuda:0",
        "1,000 MiB, 90% for Octavo at the most (--gpu-memory-utilization)",
        "others, and CUDA itself  100 MiB",
        "MiB (an estimate: it is measured when the model is loaded)",
        "MiB (an estimate)",
        "KV cache with --gpu-memory-utilization 0.9",
        "room for 32,768 tokens",
    ):
        assert words in done.stdout
    assert "would fit" not in done.stdout


def test_what_does_not_fit_is_told_with_the_share_that_would(folder: str, gpu: SimpleNamespace) -> None:
    done = octavo("doctor", "--model", folder, "--device", "cuda", "--gpu-memory-utilization", "0.1")
    assert done.returncode == 2
    assert "0 MiB of it: --gpu-memory-utilization 0." in done.stdout
    fitting = done.stderr.split("raise --gpu-memory-utilization to ")[1].split()[0]
    again = octavo("doctor", "--model", folder, "--device", "cuda", "--gpu-memory-utilization", fitting)
    assert again.returncode == 0, again.stderr
    gpu.free = 0
    full = octavo("doctor", "--model", folder, "--device", "cuda")
    assert "0 MiB are free (of 1,000 MiB: other processes and CUDA 1,000 MiB)" in full.stderr


def test_the_drivers_version_is_told_where_the_system_tells_it(tmp_path: Path) -> None:
    lines = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
    )
    file = tmp_path / "version"
    told = []
    for line in lines:
        file.write_text(line)
        told.append(software_rows(file)["NVIDIA driver"])
    assert told == ["535.104.05", "580.65.06"]
    assert "NVIDIA driver" not in software_rows(tmp_path / "none")
