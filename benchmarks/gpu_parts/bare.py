"""What a bare GPU machine lacks, stood in for. Octavo needs these packages for other work than a benchmark's."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


def stand_in() -> list[str]:
    """Provide the modules that are missing, and tell which."""
    missing = [name for name in ("psutil", "tqdm") if _is_missing(name)]
    for name in missing:
        module = ModuleType(name)
        vars(module).update(_psutil() if name == "psutil" else {"tqdm": _NoBar})
        sys.modules[name] = module
    return missing


def _is_missing(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return True
    return False


def _psutil() -> dict[str, Any]:
    """Memory of a Linux system and of this process."""

    def virtual_memory() -> SimpleNamespace:
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {name: 1024 * int(size) for name, size, *_ in lines}
        return SimpleNamespace(available=sizes["MemAvailable:"], total=sizes["MemTotal:"])

    def memory_info() -> SimpleNamespace:
        return SimpleNamespace(vms=4096 * int(Path("/proc/self/statm").read_text().split()[0]))

    return {"virtual_memory": virtual_memory, "Process": lambda: SimpleNamespace(memory_info=memory_info)}


class _NoBar:
    """A progress bar that nobody sees."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, _: float) -> None: ...
