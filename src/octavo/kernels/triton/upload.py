"""Arrays of the host on a device, all in one copy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 16
"""Bytes: what kernels assume of a tensor's first element."""


def upload(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """The same arrays as tensors on `device`, under the same names, without waiting for it.

    They lie in one piece of pinned memory. torch's allocator of such memory gives it to nobody else before the copy
    has been made, so the next step gets another piece.

    Args:
        arrays: of dtypes that torch has.
    """
    places, num_bytes = {}, 0
    for name, array in arrays.items():
        places[name] = num_bytes
        num_bytes += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    staged = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = staged.numpy()
    for name, array in arrays.items():
        own = host[places[name] : places[name] + array.nbytes]
        own.view(array.dtype)[:] = array.reshape(-1)
    sent = staged.to(device, non_blocking=True)
    return {
        name: sent[places[name] : places[name] + array.nbytes].view(_torch_dtype(array.dtype)).view(array.shape)
        for name, array in arrays.items()
    }


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
