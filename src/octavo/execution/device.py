"""Where a model runs (`--device`), and what memory is free there."""

import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.device_queue import DeviceQueue
from octavo.execution.machine import free_memory_bytes


def resolve_device(config: EngineConfig) -> torch.device:
    """The device that `--device` means here.

    Raises:
        ConfigError: it is a GPU and there is none that torch can use, or it goes not with another knob.
    """
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"--device cuda, and torch finds no GPU that it can use (torch {torch.__version__} is built {built}): "
            "install a torch that fits the driver, or take --device cpu"
        )
    if config.tensor_parallel_size > 1:
        raise ConfigError("--tensor-parallel-size above 1 runs on CPUs only so far: take --device cpu, or 1")
    return torch.device("cuda")


def free_bytes(device: torch.device) -> int:
    """Memory of a device that can be taken now."""
    return free_memory_bytes() if device.type == "cpu" else int(torch.cuda.mem_get_info(device)[0])


def resolve_steps_in_flight(config: EngineConfig, queue: DeviceQueue) -> int:
    """The number of steps that `--steps-in-flight` means here: two where the host can plan while the device works."""
    if config.steps_in_flight is not None:
        return config.steps_in_flight
    return 2 if queue.runs_ahead else 1
