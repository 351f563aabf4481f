"""What a process sets before it multiplies on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from octavo.config import EngineConfig
from octavo.execution.local import LocalExecutor

SET = """
import torch
from unittest.mock import patch
from octavo.execution.blas import keep_rows_independent
with patch("torch.backends.cuda.preferred_blas_library") as prefer:  # refused by a torch without CUDA
    torch.backends.cuda.matmul.allow_tf32 = True
    keep_rows_independent()
"""
TELL = """
import os
matmul = torch.backends.cuda.matmul
print(prefer.call_args.args, os.environ["CUBLAS_WORKSPACE_CONFIG"], os.environ["CUBLASLT_WORKSPACE_SIZE"])
print(matmul.allow_bf16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction_split_k)
print(matmul.allow_fp16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction_split_k)
print(matmul.allow_fp16_accumulation, matmul.allow_tf32)
"""


def told(**environment: str) -> tuple[str, str]:
    """What a new process says on stdout and stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CUBLAS")}
    done = subprocess.run(
        [sys.executable, "-c", SET + TELL], env=clean | environment, check=True, capture_output=True, text=True
    )
    return done.stdout, done.stderr


def test_products_on_a_gpu_are_neither_cut_into_parts_nor_summed_in_less_than_float32() -> None:
    said, warned = told()
    assert said.splitlines() == ["('cublaslt',) :16:8 1", "False False", "False False", "False False"]
    assert "answer may depend" not in warned


def test_a_users_own_workspace_stays_and_what_it_costs_is_said() -> None:
    said, warned = told(CUBLAS_WORKSPACE_CONFIG=":4096:8")
    assert said.startswith("('cublaslt',) :4096:8 1\n")
    assert "CUBLAS_WORKSPACE_CONFIG is :4096:8, not :16:8: a request's answer may depend" in warned


def test_an_executor_on_a_gpu_sets_this_before_it_loads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise InterruptedError

    monkeypatch.setattr("octavo.execution.local.resolve_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr("octavo.execution.local.keep_rows_independent", stop)
    with pytest.raises(InterruptedError):
        LocalExecutor(EngineConfig(model="no such model", device="cuda"))
