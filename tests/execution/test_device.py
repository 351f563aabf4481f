"""A model runs where --device says, each rank on a GPU of its own, or the flag to change is told. torch's answers about
GPUs are stood in for: there is none here."""

import pytest
import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError, EngineError
from octavo.execution.device import resolve_device
from octavo.execution.process_group import backends_for


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "_is_in_bad_fork": False,
        "is_available": True,
        "device_count": 2,
        "get_device_name": "NVIDIA H100",
        "get_device_capability": (9, 0),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


@pytest.mark.usefixtures("two_gpus")
def test_each_rank_has_a_gpu_of_its_own() -> None:
    config = EngineConfig(device="cuda", tensor_parallel_size=2)
    assert [resolve_device(config, rank) for rank in range(2)] == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert resolve_device(EngineConfig(device="auto")) == torch.device("cuda", 0)
    assert resolve_device(EngineConfig(device="cpu")) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_more_ranks_than_gpus_are_refused_with_the_numbers() -> None:
    for device in ("cuda", "auto"):
        with pytest.raises(ConfigError, match=r"--tensor-parallel-size 3 takes as many GPUs, and torch finds 2"):
            resolve_device(EngineConfig(device=device, tensor_parallel_size=3))
    assert resolve_device(EngineConfig(device="cpu", tensor_parallel_size=3)) == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_the_kernels_are_too_new_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ConfigError, match=r"cuda:1 is a NVIDIA H100 of compute capability 7\.5, .* need 8\.0"):
        resolve_device(EngineConfig(device="cuda", tensor_parallel_size=2), rank=1)


@pytest.mark.usefixtures("two_gpus")
def test_a_fork_of_a_process_that_has_used_a_gpu_is_refused_and_not_put_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "auto"):
        with pytest.raises(EngineError, match=r'is a fork of one that has used a GPU.*"spawn", or take --device cpu'):
            resolve_device(EngineConfig(device=device))


def test_what_is_on_gpus_goes_through_nccl_and_what_is_on_hosts_through_gloo() -> None:
    assert backends_for(torch.device("cpu")) == "gloo"
    assert backends_for(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"
