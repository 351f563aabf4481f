"""Python runs this as it starts, where this folder is on PYTHONPATH: it then finds no package but those that a bare GPU
machine has."""

import sys
from importlib.machinery import ModuleSpec, PathFinder

PRESENT = {"torch", "torchgen", "functorch", "triton", "numpy", "msgspec", "safetensors", "octavo", "gpu_parts"}
NEEDED_BY_TORCH = {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock"}


class BareFinder(PathFinder):
    """Finds these, the standard library, and what begins with an underscore."""

    @classmethod
    def find_spec(cls, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top not in PRESENT | NEEDED_BY_TORCH | sys.stdlib_module_names and not top.startswith("_"):
            return None
        return PathFinder.find_spec(fullname, path, target)  # type: ignore[arg-type]


sys.meta_path = [BareFinder if finder is PathFinder else finder for finder in sys.meta_path]
