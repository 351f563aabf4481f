"""Every Triton kernel compiles for an H100, in every dtype."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

MOST_STACK = 128
"""Bytes of a thread: pointers spilled outside the loop cost nothing; spilled sums would be many times that."""
MOST_SHARED = 227 << 10
"""Bytes of shared memory that a program on an H100 may have."""


@pytest.mark.parametrize("case", ["bfloat16:128", "float16:256", "float32:64"])
def test_every_kernel_compiles_for_an_h100_and_keeps_its_sums_in_registers(case: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compiling.py")
    done = subprocess.run([sys.executable, program, case], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 19
    for line in lines:
        words = line.split()
        assert int(words[words.index("stack") + 1]) <= MOST_STACK, line
        assert int(words[words.index("shared") + 1]) <= MOST_SHARED, line
