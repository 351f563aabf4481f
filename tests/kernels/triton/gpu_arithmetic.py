"""Triton's interpreter, with arithmetic as a GPU's.

Its own casts to fp8 lose a carry (127 becomes 64, not 128), and its products are BLAS's, which on some processors gives
a row other bits in another place of the same matrix.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

BITS = {tl.float16: np.float16, tl.float32: np.float32}
"""How numbers of these types are seen by numpy."""


@contextmanager
def arithmetic_as_on_a_gpu() -> Iterator[None]:
    """While it lasts, float8_e4m3fn is rounded to by torch, and the rows of a product do not know each other."""
    interpreters_own = interpreter._convert_float

    def convert(numbers: Any, source: Any, destination: Any, rounding: Any) -> Any:
        if destination == tl.float8e4nv and source in BITS:
            wide = torch.from_numpy(np.ascontiguousarray(numbers).view(BITS[source]))
            return wide.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        if source == tl.float8e4nv and destination in BITS:
            narrow = torch.from_numpy(np.ascontiguousarray(numbers).view(np.uint8)).view(torch.float8_e4m3fn)
            return narrow.to(torch.float32).numpy().astype(BITS[destination])
        return interpreters_own(numbers, source, destination, rounding)

    def matmul(left: Any, right: Any, **options: Any) -> Any:
        """Shapes [..., rows, inputs] and [..., inputs, columns]."""
        return np.matmul(left[..., None, :], right[..., None, :, :], **options)[..., 0, :]

    numpy = SimpleNamespace(**vars(np) | {"matmul": matmul})
    with patch.object(interpreter, "_convert_float", convert), patch.object(interpreter, "np", numpy):
        yield
