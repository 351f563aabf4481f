"""Where a model runs (`--device`)."""

import os

import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError, EngineError
from octavo.execution.device_queue import DeviceQueue

LEAST_CAPABILITY = (8, 0)
"""Compute capability that the kernels need: bfloat16 came with Ampere."""


def resolve_device(config: EngineConfig, rank: int = 0) -> torch.device:
    """The device that `--device` means here: a GPU of its own for each rank.

    Raises:
        ConfigError: it is a GPU, and there is none that torch and the kernels can use, or there are too few.
        EngineError: this process is a fork of one that has used a GPU, and so cannot use any.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda._is_in_bad_fork():
        raise EngineError(
            f"process {os.getpid()} is a fork of one that has used a GPU, and cannot use one itself: start it with "
            'multiprocessing\'s "spawn", or take --device cpu'
        )
    if not torch.cuda.is_available():
        if config.device == "auto":
            return torch.device("cpu")
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"--device cuda, and torch finds no GPU that it can use (torch {torch.__version__} is built {built}): "
            "install a torch that fits the driver, or take --device cpu"
        )
    if config.tensor_parallel_size > torch.cuda.device_count():
        raise ConfigError(
            f"--tensor-parallel-size {config.tensor_parallel_size} takes as many GPUs, and torch finds "
            f"{torch.cuda.device_count()} (CUDA_VISIBLE_DEVICES may hide some): lower it, or take --device cpu"
        )
    device = torch.device("cuda", rank)
    if (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        needed, has = (".".join(map(str, each)) for each in (LEAST_CAPABILITY, capability))
        raise ConfigError(
            f"{device} is a {torch.cuda.get_device_name(device)} of compute capability {has}, and the kernels need "
            f"{needed} (Ampere) or later: take --device cpu, or let CUDA_VISIBLE_DEVICES name another"
        )
    return device


def resolve_steps_in_flight(config: EngineConfig, queue: DeviceQueue) -> int:
    """The number of steps that `--steps-in-flight` means here: two where the host can plan while the device works."""
    if config.steps_in_flight is not None:
        return config.steps_in_flight
    return 2 if queue.runs_ahead else 1
