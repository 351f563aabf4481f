"""Every Triton kernel compiles for an H100, keeps to its registers, and none is left out."""

import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest

pytest.importorskip("triton")

from kernels.triton.compiling import MOST_SHARED, MOST_STACK, Check, Compiled
from kernels.triton.shapes import covering_shapes, served_axes

PROGRAM = Path(__file__).with_name("gpu_check.py")


def test_every_kernel_compiles_for_an_h100_and_keeps_its_sums_in_registers(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, PROGRAM, "--quick"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for kernel in ("attention_kernel.attend", "attention_kernel.merge_chunks", "kv_write._write_heads", "copy._copy"):
        assert f"  {kernel}, " in done.stdout


def test_a_kernel_that_spills_or_needs_too_much_memory_or_is_never_launched_is_a_fault() -> None:
    fits = Compiled("norm.norm", "a case", 255, MOST_STACK, MOST_SHARED, 0.1)
    spills = Compiled("attention.attend", "another", 255, MOST_STACK + 1, 0, 0.1)
    too_much = Compiled("copy.copy", "a third", 255, 0, MOST_SHARED + 1, 0.1)
    faults = Check({"norm.norm", "attention.attend", "copy.copy", "sampling.draw"}, [fits, spills, too_much]).faults
    assert [fault.partition(",")[0] for fault in faults[:2]] == ["attention.attend", "copy.copy"]
    assert "spills" in faults[0]
    assert "shared memory" in faults[1]
    assert faults[2].startswith("sampling.draw was never compiled")
    assert len(faults) == 3


def test_each_two_values_of_different_axes_are_compiled_together_once() -> None:
    shapes = covering_shapes()
    for axis, other in combinations(served_axes().values(), 2):
        for one, another in product(axis, other):
            wanted = {**one, **another}
            assert any(all(getattr(shape, key) == value for key, value in wanted.items()) for shape in shapes), wanted
    assert len(shapes) < 70
