"""Arrays of the host on their way to a device, without waiting for it."""

import numpy as np
import torch
from numpy.typing import NDArray


def upload(array: NDArray[np.integer | np.floating | np.bool_], device: torch.device) -> torch.Tensor:
    """A tensor of the device with the array's numbers: on the CPU the array's own memory, on a GPU a copy from pinned
    memory, in the order of the stream."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
