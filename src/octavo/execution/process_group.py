"""How ranks find each other, and over what they speak: gloo between processors, NCCL between GPUs.

No rank judges another. One that waits for a lost one waits on, in NCCL inside a kernel of its GPU, until the executor,
which hears of every end, ends it. So NCCL's own watchdog, which would end a process by minutes or by a guess, is off.
"""

import datetime
import os
import socket

import torch
from torch import distributed

PATIENCE = datetime.timedelta(days=1)
"""How long a rank waits for another: one may load for long, and the executor notices one that has ended."""
NCCL_SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}


def join_ranks(rank: int, size: int, rendezvous: int, device: torch.device) -> None:
    """Make torch.distributed's default process group, over this machine's own network only.

    A collective of tensors on the host goes through gloo, one of tensors on a GPU through NCCL. NCCL's connections are
    there when this returns, so that a collective may be captured in a CUDA graph.

    Args:
        rendezvous: descriptor of an empty file, the same of all ranks.
        device: of this rank's own.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback
        os.environ["NCCL_SOCKET_IFNAME"] = f"={loopback}"  # this one, and none that begins so
    os.environ.update(NCCL_SETTINGS)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    file = f"file:///proc/self/fd/{rendezvous}"
    distributed.init_process_group(backends_for(device), init_method=file, rank=rank, world_size=size, timeout=PATIENCE)
    distributed.all_reduce(torch.zeros(1, device=device))


def backends_for(device: torch.device) -> str:
    """What collectives go through, as torch.distributed calls it."""
    return "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
