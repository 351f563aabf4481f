"""Memory of the host that a GPU reads and writes by itself."""

import weakref

import numpy as np
import torch

from octavo.errors import ConfigError

MIB = 2**20
PAGE = 4096
PORTABLE_AND_MAPPED = 1 | 2
"""CUDA's flags of registered memory: every context knows it, and kernels may use it."""


def pinned_zeros(num_rows: int, row_bytes: int) -> torch.Tensor:
    """`[num_rows, row_bytes]` uint8, of no more memory than that: torch's own pinned memory comes in powers of two.

    Raises:
        ConfigError: the system does not pin so much.
    """
    num_bytes = num_rows * row_bytes
    memory = np.zeros(num_bytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    address = memory.ctypes.data + start
    cuda = torch.cuda.cudart()
    status = int(cuda.cudaHostRegister(address, num_bytes, PORTABLE_AND_MAPPED))
    if status != 0:
        raise ConfigError(
            f"the system does not pin {num_bytes / MIB:,.0f} MiB of its memory for the swap space (CUDA's error "
            f"{status}): lower --swap-space"
        )
    weakref.finalize(memory, cuda.cudaHostUnregister, address)
    return torch.from_numpy(memory[start : start + num_bytes]).view(num_rows, row_bytes)
