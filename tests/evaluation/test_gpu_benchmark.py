"""The GPU's benchmark, at toy size in Triton's interpreter, as on a machine that has little installed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
BARE_MACHINE = Path(__file__).with_name("bare_machine")
FAILURES = {"error", "traceback", "cut", "died", "skipped"}


def command(file: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(PROGRAM), "--json", str(file), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(BARE_MACHINE), "OMP_NUM_THREADS": "1"}


def benchmark(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(file, *arguments), env=environment(), capture_output=True, text=True)


def run(tmp_path: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """What it wrote."""
    file = tmp_path / "gpu.json"
    done = benchmark(file, *arguments)
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


def test_without_a_gpu_it_says_so_and_ends(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = benchmark(tmp_path / "gpu.json", "--parts", "device", "decode")
    assert done.returncode == 1
    assert "finds no GPU that it can use (--toy runs without one)" in done.stdout
    assert "decode" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = benchmark(tmp_path / "nowhere" / "gpu.json", "--toy")
    assert done.returncode == 1
    assert re.fullmatch(r"gpu.py: --json \S+ cannot be written: No such file or directory\n", done.stderr)
    assert not done.stdout


def test_ctrl_c_ends_it_with_a_line_and_leaves_what_was_told(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    process = subprocess.Popen(
        command(file, "--toy", "--parts", "device", "decode"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # the note: parts follow
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == f"gpu.py: interrupted; {file} has what was told until then\n"
    assert "toy" in json.loads(file.read_text())
