"""The last hidden states that a bound model gives, on every backend of the CPU's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaModel

from octavo.kernels.cpu import CpuKernels
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from ragged_model import RaggedModel
from tiny_checkpoints import make_llama

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("kernels", [ReferenceKernels(), CpuKernels()], ids=lambda kernels: kernels.name)
def test_the_hidden_states_of_any_tokens_of_a_step_can_be_read(tmp_path: Path, kernels: Kernels) -> None:
    folder = make_llama(tmp_path)
    expected = LlamaModel.from_pretrained(folder)(input_ids=torch.tensor([TOKENS])).last_hidden_state[0]
    model = RaggedModel(folder, kernels=kernels)
    model.run({"row": TOKENS})
    places = np.array([7, 0, 3])
    torch.testing.assert_close(model.forward.hidden_states(places), expected[places], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.forward.hidden_states(np.arange(8)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_without_a_head_gives_the_same_states_and_no_logits(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, places = make_llama(tmp_path), np.arange(8)
    with_head = RaggedModel(folder, kernels=CpuKernels(), dtype=dtype)
    with_head.run({"row": TOKENS})
    without = RaggedModel(folder, kernels=CpuKernels(), dtype=dtype, has_head=False)
    without.run({"row": TOKENS})
    assert without.forward.hidden_states(places).equal(with_head.forward.hidden_states(places))
    with pytest.raises(RuntimeError, match="no head"):
        without.forward.logits(places)
