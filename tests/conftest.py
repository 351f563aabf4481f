"""What tests share: where the data is, and the real model loaded once."""

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# `make emulated`: kernels built with AVX-512's and AMX's instructions as functions, in place of the installed ones.
if extension := os.environ.get("OCTAVO_TEST_EXTENSION"):
    spec = importlib.util.spec_from_file_location("octavo.kernels._cpu", extension)
    assert spec
    assert spec.loader
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])

from octavo import LLM

# Before anything imports Triton: its kernels are run by its interpreter, as there need be no GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell's background and nohup have what runs there ignore these; so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["tiny_tokenizers"]

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile("octavo", deadline=None)  # no example fails for the time that it takes
settings.load_profile("octavo")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shared",
        default=str(REPOSITORY.parent / "shared"),
        help="folder with data/ and peers/ (workloads and prompts)",
    )
    parser.addoption(
        "--endings", type=int, default=4, help="random moments at which tests/dropin/test_endings.py ends servers"
    )


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of prompts and workloads; tests that need it are skipped where it is absent."""
    folder = Path(request.config.getoption("--shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} with prompts and workloads (--shared)")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tiny models: sharing out their work over threads costs many times what it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smollm2() -> Iterator[LLM]:
    """The real model in float32, its weights widened."""
    with LLM("smollm2", dtype="float32", quantization="none", kv_cache_memory="1GiB", max_model_len=2048) as llm:
        yield llm
    gc.collect()
