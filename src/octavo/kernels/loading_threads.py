"""The threads that read weights in C++ while a model loads."""

from functools import cache

import torch

from octavo.kernels import _cpu


@cache
def loading_threads() -> _cpu.ThreadPool:
    """Those of this process, as many as torch has. They sleep while there is nothing to read."""
    return _cpu.ThreadPool(torch.get_num_threads())
