"""The rate of products of matrices by torch: in this process, or in one of its own that keeps cuBLAS as it is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

REPEATS = 20


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Operations a second of products of square matrices."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    for repeats in (3, REPEATS):
        start_s = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
    return 2 * size**3 * REPEATS / (time.perf_counter() - start_s)


def matrix_rate_apart(device: str, dtype: torch.dtype, size: int) -> float:
    """The same in a process of its own, without what Octavo has set in this one's environment."""
    told = [device, str(dtype).removeprefix("torch."), str(size)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUBLAS")}
    done = subprocess.run(
        [sys.executable, Path(__file__), *told], env=environment, check=True, capture_output=True, text=True
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(matrix_rate(sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])))
