"""Each architecture is in a GGUF file what it is in the checkpoint that the file was made from."""

import math
from pathlib import Path

import pytest
import torch

from gguf_files import GGUF_VARIANTS, IMPLIED, NAMES, make_gguf
from octavo.models.registry import generating_architectures
from ragged_model import RaggedModel
from tiny_checkpoints import YARN, make_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = [(7 * place * place + 3) % 97 for place in range(40)]


@pytest.mark.parametrize(("architecture", "variant"), GGUF_VARIANTS)
def test_a_gguf_file_gives_the_logits_of_the_checkpoint_it_was_made_from(
    tmp_path: Path, architecture: str, variant: str
) -> None:
    folder = make_checkpoint(tmp_path, architecture, variant, **IMPLIED.get(architecture, {}))
    path = make_gguf(tmp_path / "model.gguf", folder)
    expected = RaggedModel(folder).step({"row": TOKENS})["row"]
    torch.testing.assert_close(RaggedModel(path).step({"row": TOKENS})["row"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("metadata", "amplitude"),
    [
        ({"attn_factor": 0.5}, (0.1 * math.log(4) + 1) / 2),
        ({"yarn_log_multiplier": 0.5}, (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
    ],
)
def test_a_gguf_files_own_fields_of_yarn_change_its_amplitude_as_in_llama_cpp(
    tmp_path: Path, metadata: dict[str, float], amplitude: float
) -> None:
    folder = make_checkpoint(tmp_path, "Qwen2ForCausalLM", rope_parameters=YARN)
    given = {f"qwen2.rope.scaling.{name}": value for name, value in metadata.items()}
    path = make_gguf(tmp_path / "model.gguf", folder, metadata=given)
    expected = make_checkpoint(
        tmp_path / "given", "Qwen2ForCausalLM", rope_parameters={**YARN, "attention_factor": amplitude}
    )
    logits = RaggedModel(expected).step({"row": TOKENS})["row"]
    torch.testing.assert_close(RaggedModel(path).step({"row": TOKENS})["row"], logits, atol=1e-4, rtol=0)


def test_every_known_architecture_but_opt_can_be_a_gguf_file() -> None:
    assert set(generating_architectures()) - set(NAMES) <= {"OPTForCausalLM"}
