"""The threads that read weights in C++ while a model loads."""

from functools import cache

import torch

from octavo.kernels import _cpu


def loading_threads() -> _cpu.ThreadPool:
    """As many as torch has by now. They sleep while there is nothing to read."""
    return _pool(torch.get_num_threads())


@cache
def _pool(num_threads: int) -> _cpu.ThreadPool:
    return _cpu.ThreadPool(num_threads)
