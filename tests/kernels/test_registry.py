"""Which kernels a device gets, and what it is told about it."""

import subprocess
import sys

import pytest
import torch

from octavo import kernels
from octavo.errors import ConfigError
from octavo.kernels import Backend, select_kernels
from octavo.kernels.reference import ReferenceKernels


def test_the_cpu_gets_the_reference_and_a_sentence_that_says_so() -> None:
    choice = select_kernels(torch.device("cpu"))
    assert choice.kernels.name == "reference"
    assert choice.why == "Kernels 'reference' on cpu: no faster backend is registered for cpu."


def test_the_first_backend_that_can_serve_the_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Backend("fast", why_not=lambda device: None, load=ReferenceKernels)
    monkeypatch.setattr(kernels, "BACKENDS", [fast, *kernels.BACKENDS])
    assert "'fast'" in select_kernels(torch.device("cpu")).why


def test_a_backend_that_cannot_serve_is_not_loaded_and_its_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> ReferenceKernels:
        raise AssertionError("loaded a backend that cannot serve the device")

    picky = Backend("picky", why_not=lambda device: f"needs AVX-512, which this {device.type} lacks", load=load)
    monkeypatch.setattr(kernels, "BACKENDS", [picky, *kernels.BACKENDS])
    choice = select_kernels(torch.device("cpu"))
    assert choice.kernels.name == "reference"
    assert choice.why == "Kernels 'reference' on cpu: 'picky' needs AVX-512, which this cpu lacks."


def test_a_device_that_no_backend_serves_is_refused_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "BACKENDS", [Backend("picky", lambda device: "is not built", ReferenceKernels)])
    with pytest.raises(ConfigError, match="no kernels for device cpu: 'picky' is not built"):
        select_kernels(torch.device("cpu"))


def test_asking_for_the_registry_loads_no_backend() -> None:
    code = "import sys, octavo.kernels; sys.exit('octavo.kernels.reference' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
