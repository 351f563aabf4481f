"""Weights are read by as many threads as the process may use."""

import torch

from octavo.kernels.loading_threads import loading_threads


def test_there_are_as_many_as_torch_has_by_now() -> None:
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2, 1):
            torch.set_num_threads(num_threads)
            assert loading_threads().num_threads == num_threads
    finally:
        torch.set_num_threads(before)
