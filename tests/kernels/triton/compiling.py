"""Compiles what is launched for an H100, on a machine without a GPU.

Arguments are tensors on the meta device. Triton's own launcher makes the signature of them: which arguments are
constants, which are divisible by 16, what is not specialised. Only its last part, the launch, is left out. Host code
that waits for the device fails here, as a meta tensor has no values. Not for Triton's interpreter, in which the other
tests run.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import msgspec
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

MOST_STACK = 192
"""Bytes of a thread's stack, a fifth of what it has in registers. Pointers and masks spilled outside a loop cost next
to nothing; spilled sums of a tile would be more than this."""
MOST_SHARED = 227 << 10
"""Bytes of shared memory that a program on an H100 may have."""
MOST_PROGRAMS = (2**31 - 1, 2**16 - 1, 2**16 - 1)
"""Of a grid, in each dimension."""


class Compiled(msgspec.Struct, frozen=True):
    """A kernel compiled for one class of arguments, and what a program of it takes."""

    kernel: str
    """Module and name."""
    case: str
    """The launches in which it was asked for first."""
    registers: int
    """Of a thread."""
    stack: int
    """Bytes of a thread, with what is spilled from registers."""
    shared: int
    """Bytes."""
    seconds: float

    @property
    def faults(self) -> Iterator[str]:
        """What an H100 cannot run, or not well."""
        if self.stack > MOST_STACK:
            yield f"{self.kernel}, {self.case}: {self.stack} bytes of stack a thread, over {MOST_STACK}: it spills"
        if self.shared > MOST_SHARED:
            yield f"{self.kernel}, {self.case}: {self.shared} bytes of shared memory, over an H100's {MOST_SHARED}"

    def __str__(self) -> str:
        figures = f"registers {self.registers:3}  stack {self.stack:3}  shared {self.shared:6}  {self.seconds:4.1f} s"
        return f"{figures}  {self.kernel}, {self.case}"


class H100Driver:
    """Stands for the driver of an H100."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Waiting(msgspec.Struct, frozen=True):
    """A launch whose host code asks for the values of tensors, and so would wait for the device."""

    case: str
    error: str

    def __str__(self) -> str:
        return f"waits for the device: {self.case} ({self.error})"


def compile_launches(cases: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[Compiled | Waiting]:
    """Compile all that the calls launch, each kernel once for each class of arguments.

    Args:
        cases: a name, and a call that launches kernels on meta tensors.

    Raises:
        ValueError: a grid is larger than the device allows.
    """
    found: list[Compiled] = []
    seen: set[int] = set()
    with _compiling(lambda kernel, compiled, seconds: found.append(_resources(kernel, case, compiled, seconds)), seen):
        for case, call in cases:
            try:
                call()
            except (NotImplementedError, RuntimeError) as error:
                if "meta" not in str(error):
                    raise
                yield Waiting(case, str(error).split("\n")[0][:90])
            yield from found
            found.clear()


@contextmanager
def _compiling(tell: Callable[[JITFunction, Any, float], None], seen: set[int]) -> Iterator[None]:
    """Where a launch compiles and runs nothing; of what is compiled for the first time `tell` is told."""
    run = JITFunction.run

    def compile_only(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        _check_grid(kernel, grid(options) if callable(grid) else grid)
        start_s = time.perf_counter()
        compiled = run(kernel, *arguments, grid=grid, warmup=True, **options)
        if id(compiled) not in seen:  # the launcher keeps what it has compiled
            seen.add(id(compiled))
            tell(kernel, compiled, time.perf_counter() - start_s)
        return compiled

    driver.set_active(H100Driver())
    with patch.object(JITFunction, "run", compile_only):
        yield


def _check_grid(kernel: JITFunction, grid: tuple[int, ...]) -> None:
    if not all(0 < number <= most for number, most in zip(grid, MOST_PROGRAMS, strict=False)):
        raise ValueError(f"{name_of(kernel)} is launched with a grid of {grid}: a GPU takes 1 to {MOST_PROGRAMS}")


def _resources(kernel: JITFunction, case: str, compiled: Any, seconds: float) -> Compiled:
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        told = subprocess.run([program, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return Compiled(name_of(kernel), case, int(found[1]), int(found[2]), compiled.metadata.shared, round(seconds, 1))


def name_of(kernel: JITFunction) -> str:
    """Module, within its package, and name."""
    return f"{kernel.module.rpartition('.')[2]}.{kernel.fn.__name__}"


def launched_kernels(package: ModuleType) -> set[str]:
    """Names of the kernels in a package's modules that host code launches: all but those that other kernels call."""
    kernels: dict[int, JITFunction] = {}
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        kernels |= {id(each): each for each in _kernels_of(importlib.import_module(module.name))}
    called = {id(callee) for kernel in kernels.values() for callee in _callees(kernel)}
    return {name_of(kernel) for key, kernel in kernels.items() if key not in called}


def _kernels_of(module: ModuleType) -> Iterator[JITFunction]:
    """Kernels of a module, those under a decorator of Triton's included."""
    for value in vars(module).values():
        while not isinstance(value, JITFunction) and hasattr(value, "fn"):
            value = value.fn
        if isinstance(value, JITFunction) and value.module == module.__name__:
            yield value


def _callees(kernel: JITFunction) -> Iterator[JITFunction]:
    known = inspect.unwrap(kernel.fn).__globals__
    for node in ast.walk(kernel.parse()):
        called = known.get(node.func.id) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        if isinstance(called, JITFunction):
            yield called


@dataclass(frozen=True)
class Check:
    """What has been compiled, beside what there is."""

    launched: set[str]
    """Kernels that the package launches."""
    compiled: list[Compiled] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """One sentence each: too much of something, and kernels that no case has compiled."""
        never = self.launched - {each.kernel for each in self.compiled}
        return [
            *(fault for each in self.compiled for fault in each.faults),
            *(f"{name} was never compiled: launch it in tests/kernels/triton/launches.py" for name in sorted(never)),
        ]
