"""How cuBLAS multiplies: so that a row of a product does not depend on how many rows there are.

cuBLAS chooses a kernel by the product's shape. What changes a row's bits between kernels on Hopper is a sum that is cut
into parts (split-K), and the parts need memory: without it each output is one chain of sums.
"""

import logging
import os

import torch

logger = logging.getLogger(__name__)

ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}
"""Eight buffers of 16 KiB for cuBLAS, 1 KiB for cuBLASLt: the least that they take, and too little for parts of sums.
torch reads them before a process's first product on a GPU, and never again."""


def keep_rows_independent() -> None:
    """Forbid split-K and sums in less than float32, in this process. A value that the environment has already stays,
    with a warning."""
    for name, value in ENVIRONMENT.items():
        found = os.environ.setdefault(name, value)
        if found != value:
            logger.warning(
                "%s is %s, not %s: a request's answer may depend on which others are computed beside it",
                name,
                found,
                value,
            )
    torch.backends.cuda.preferred_blas_library("cublaslt")  # it alone can be told to take no split-K
    matmul = torch.backends.cuda.matmul
    for kind in ("fp16", "bf16"):
        setattr(matmul, f"allow_{kind}_reduced_precision_reduction", (False, False))  # reduced sums, split-K
    matmul.allow_fp16_accumulation = False
    torch.set_float32_matmul_precision("highest")  # no TF32
