"""The GPU's benchmark, at toy size in Triton's interpreter, as on a machine that has little installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
BARE_MACHINE = Path(__file__).with_name("bare_machine")
FAILURES = {"error", "traceback", "cut", "died", "skipped"}


def run(tmp_path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """What it wrote."""
    file = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, PROGRAM, "--json", file, *arguments],
        env=os.environ | {"PYTHONPATH": str(BARE_MACHINE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return told


def test_its_parts_run_without_packages_that_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    parts = ["device", "ceilings", "scattered", "attention", "operations", "decode"]
    told = run(tmp_path, "--toy", "--parts", *parts)
    assert list(told) == ["toy", *parts]
    assert {"psutil", "tqdm"} == set(told["device"]["packages stood in for"])
    for part in parts:
        assert not told[part].keys() & FAILURES, told[part]
    assert told["decode"]["2 x 20"]["ms"] > 0
    assert told["decode"]["loaded"]["kernels"].startswith("Kernels 'triton'")


def test_a_part_that_outlasts_its_time_is_cut_and_what_has_none_left_is_skipped(tmp_path: Path) -> None:
    told = run(tmp_path, "--toy", "--budget-s", "0.05", "--parts", "device", "decode")
    assert "outlasted its 0 s" in told["device"]["cut"]
    assert "it needs 30" in told["decode"]["skipped"]
