"""A LLaMA in other dtypes, in a GGUF file and on two ranks. tests/models/test_architectures.py has its variants."""

import random
from pathlib import Path

import pytest
import torch
import transformers

from ragged_model import RaggedModel
from tiny_checkpoints import LLAMA3, make_llama, transformers_from_gguf, transformers_logits


def tokens(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(97) for _ in range(count)]


def test_a_float64_model_gives_the_same_logits_however_it_is_chunked(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, rope_parameters=LLAMA3)
    token_ids = tokens(40, 4)
    model = RaggedModel(folder, dtype=torch.float64)
    whole = model.step({"whole": token_ids})["whole"]
    chunks = [model.step({"chunked": token_ids[at : at + 3]})["chunked"] for at in range(0, 40, 3)]
    assert whole.dtype == torch.float64
    torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_model_stays_close_to_transformers_in_the_same_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_llama(tmp_path)
    token_ids = tokens(24, 5)
    exact = transformers_logits(transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64), token_ids)
    theirs = transformers_logits(transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype), token_ids)
    ours = RaggedModel(folder, dtype=dtype).step({"row": token_ids})["row"]
    assert ours.dtype == dtype
    assert (ours - exact).abs().mean() <= 1.2 * (theirs - exact).abs().mean()


def test_the_packaged_smollm2_gives_the_logits_of_transformers_on_the_same_file() -> None:
    model = RaggedModel("smollm2", num_blocks=16)
    token_ids = [504, 3575, 282, 4649, 314, 260, 2240, 282, 253, 1165]
    expected = transformers_logits(transformers_from_gguf(model.checkpoint.path, num_layers=30), token_ids)
    prefilled = model.step({"row": token_ids[:7]})["row"]
    decoded = [model.step({"row": [token]})["row"] for token in token_ids[7:]]
    torch.testing.assert_close(torch.cat([prefilled, *decoded]), expected, atol=1e-3, rtol=0)
