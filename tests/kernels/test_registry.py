"""Which kernels a device gets, and what it is told about it."""

import dataclasses
import re
import subprocess
import sys

import pytest
import torch

from octavo import kernels
from octavo.errors import ConfigError
from octavo.kernels import Backend, Needs, select_kernels
from octavo.kernels.reference import ReferenceKernels

NEEDS = Needs(torch.device("cpu"), torch.float32, torch.float32)
EXACT = Needs(torch.device("cpu"), torch.float64, torch.float64)


def test_the_cpu_gets_the_cpp_kernels_and_a_sentence_that_says_so() -> None:
    choice = select_kernels(NEEDS)
    assert choice.kernels.name == "cpu"
    assert choice.why == "Kernels 'cpu' on cpu: the fastest there are."
    assert not choice.is_fallback


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (EXACT, "'cpu' have no float64"),
        (
            dataclasses.replace(NEEDS, cache_dtype=torch.float8_e4m3fn),
            "'cpu' have no fp8 KV cache (--kv-cache-dtype int8",
        ),
        (dataclasses.replace(NEEDS, quantization="fp8"), "'cpu' have no fp8 weights (--quantization int8"),
    ],
    ids=["float64", "fp8 cache", "fp8 weights"],
)
def test_what_the_fast_kernels_do_not_have_gets_the_reference_which_is_said_to_be_slow(
    needs: Needs, reason: str
) -> None:
    choice = select_kernels(needs)
    assert choice.kernels.name == "reference"
    assert choice.why.startswith(f"Kernels 'reference' on cpu: {reason}")
    assert choice.why.endswith(" This is many times slower.")
    assert choice.is_fallback


def test_without_the_extension_the_reference_serves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "octavo.kernels._cpu", None)
    choice = select_kernels(NEEDS)
    assert choice.kernels.name == "reference"
    assert "'cpu' could not be built or loaded" in choice.why
    assert choice.is_fallback


def test_a_gpu_without_triton_gets_the_reference_as_a_fallback_to_warn_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    choice = select_kernels(Needs(torch.device("cuda", 0), torch.bfloat16, torch.bfloat16))
    assert choice.kernels.name == "reference"
    assert "'triton' could not be loaded: triton is not installed" in choice.why
    assert choice.is_fallback


def test_a_backend_asked_for_by_name_serves_or_is_refused_with_the_flag() -> None:
    choice = select_kernels(NEEDS, "reference")
    assert choice.kernels.name == "reference"
    assert not choice.is_fallback
    with pytest.raises(ConfigError, match=r"'cpu' have no float64.*--kernels"):
        select_kernels(EXACT, "cpu")


def test_the_cpp_kernels_refuse_fp8_weights_with_the_flag() -> None:
    needs = dataclasses.replace(NEEDS, quantization="fp8")
    with pytest.raises(ConfigError, match=r"'cpu' have no fp8 weights \(--quantization int8"):
        select_kernels(needs, "cpu")


@pytest.mark.parametrize("name", ["auto", "triton", "reference"])
def test_weights_of_4_bits_are_refused_on_a_gpu_by_name(name: str) -> None:
    needs = Needs(torch.device("cuda", 0), torch.bfloat16, torch.bfloat16, "int4")
    kind = "triton" if name == "auto" else name
    with pytest.raises(ConfigError, match=rf"device cuda:0: .*'{kind}' .*weights of 4 bits"):
        select_kernels(needs, name)


@pytest.mark.parametrize(("capability", "words"), [((8, 0), r"capability 8\.9 and above.* has 8\.0"), ((9, 0), "")])
def test_a_gpu_multiplies_fp8_weights_where_it_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], words: str
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    triton = next(backend for backend in kernels.BACKENDS if backend.name == "triton")
    reason = triton.why_not(Needs(torch.device("cuda"), torch.bfloat16, torch.bfloat16, "fp8"))
    assert re.search(words, reason) if reason else not words


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_every_backend_serves_16_bit_weights_over_an_int8_cache(name: str) -> None:
    needs = Needs(torch.device("cpu"), torch.bfloat16, torch.int8)
    assert select_kernels(needs, name).kernels.name == name


def test_an_fp8_cache_is_served_by_the_reference_on_a_cpu_and_refused_by_the_cpp_kernels() -> None:
    needs = Needs(torch.device("cpu"), torch.bfloat16, torch.float8_e4m3fn)
    choice = select_kernels(needs)
    assert choice.kernels.name == "reference"
    assert "'cpu' have no fp8 KV cache (--kv-cache-dtype int8 is of the same size)" in choice.why
    with pytest.raises(ConfigError, match="'cpu' have no fp8 KV cache"):
        select_kernels(needs, "cpu")


def test_the_first_backend_that_can_serve_the_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_kernels = ReferenceKernels()
    fast = Backend("fast", why_not=lambda needs: None, load=lambda needs: fast_kernels)
    monkeypatch.setattr(kernels, "BACKENDS", [fast, *kernels.BACKENDS])
    assert select_kernels(NEEDS).kernels is fast_kernels


def test_a_backend_that_cannot_serve_is_not_loaded_and_its_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(needs: Needs) -> ReferenceKernels:
        raise AssertionError("loaded a backend that cannot serve the device")

    picky = Backend("picky", why_not=lambda needs: f"needs AVX-512, which this {needs.device.type} lacks", load=load)
    monkeypatch.setattr(kernels, "BACKENDS", [picky, *kernels.BACKENDS])
    choice = select_kernels(EXACT)
    assert choice.kernels.name == "reference"
    assert "on cpu: 'picky' needs AVX-512, which this cpu lacks; 'cpu' have no float64." in choice.why


def test_a_device_that_no_backend_serves_is_refused_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kernels, "BACKENDS", [Backend("picky", lambda needs: "is not built", lambda needs: ReferenceKernels())]
    )
    with pytest.raises(ConfigError, match="no kernels for device cpu: 'picky' is not built"):
        select_kernels(EXACT)


def test_asking_for_the_registry_loads_no_backend() -> None:
    code = "import sys, octavo.kernels; sys.exit('octavo.kernels.reference' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
