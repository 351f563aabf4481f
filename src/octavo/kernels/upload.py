"""Arrays of the host on their way to a device, without waiting for it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 16
"""Bytes: what kernels assume of a tensor's first element."""


def upload(array: NDArray[np.integer | np.floating | np.bool_], device: torch.device) -> torch.Tensor:
    """A tensor of the device with the array's numbers: on the CPU the array's own memory, on a GPU a copy from pinned
    memory, in the order of the stream."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def upload_together(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, torch.Tensor]:
    """Copies of several arrays as tensors of the device, under the same names, all sent at once.

    On a GPU they lie in one piece of pinned memory, which torch's allocator gives to nobody else before it has been
    read.

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
