"""Pinned memory is registered page by page, and let go of before it is freed."""

import gc
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from octavo.errors import ConfigError
from octavo.kernels.cache import CacheShape
from octavo.kernels.triton.kernels import TritonKernels
from octavo.layer_groups import one_group

SHAPE = CacheShape(5, one_group(3), 16, 2, 80, torch.bfloat16)


class Driver:
    """Stands in for the part of CUDA that registers memory of the host."""

    def __init__(self) -> None:
        self.status = 0
        self.registered: dict[int, int] = {}
        self.cudart = SimpleNamespace(cudaHostRegister=self.register, cudaHostUnregister=self.registered.pop)

    def register(self, address: int, num_bytes: int, flags: int) -> int:
        self.registered[address] = num_bytes
        return self.status


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.cudart", lambda: driver.cudart)
    return driver


def test_a_swap_space_is_pinned_whole_from_a_pages_start_for_as_long_as_a_part_of_it_is_used(driver: Driver) -> None:
    cache = TritonKernels().allocate_cache(SHAPE, torch.device("cpu"))
    records = cache.records
    assert records.shape == (5, SHAPE.block_bytes)
    assert not records.any()
    assert driver.registered == {records.data_ptr(): SHAPE.num_bytes}
    assert records.data_ptr() % 4096 == 0
    part = records[3]
    del cache, records
    gc.collect()
    assert driver.registered
    part.fill_(7)
    del part
    gc.collect()
    assert not driver.registered


def test_what_the_system_does_not_pin_is_refused_with_the_flag(driver: Driver) -> None:
    driver.status = 2
    with pytest.raises(ConfigError, match=r"does not pin 0 MiB .*error 2\): lower --swap-space"):
        TritonKernels().allocate_cache(SHAPE, torch.device("cpu"))
