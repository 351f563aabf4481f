"""Each architecture computes what transformers does, in prefill and decode, on the reference and the C++ kernels."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from octavo.kernels.cpu import CpuKernels
from octavo.kernels.interface import Kernels
from octavo.kernels.quantized import quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.models.registry import generating_architectures
from parallel_ranks import check_models, on_ranks
from ragged_model import RaggedModel
from tiny_checkpoints import FAMILIES, VARIANTS, make_checkpoint, transformers_logits

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_GENERATED = 12


def tokens(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(97) for _ in range(count)]


ROWS = {"whole": tokens(29, 1), "chunked": tokens(37, 2), "decoded": tokens(20, 3)}
CHUNKS = {"whole": [29], "chunked": [7, 11, 1, 13, 5], "decoded": [10] + [1] * 10}


def ragged_logits(model: RaggedModel) -> dict[str, torch.Tensor]:
    """The rows' logits, all in the same batches, each row cut into its chunks."""
    got: dict[str, list[torch.Tensor]] = {row: [] for row in ROWS}
    for step in range(max(map(len, CHUNKS.values()))):
        now = {row: sizes[step] for row, sizes in CHUNKS.items() if step < len(sizes)}
        fed = {row: ROWS[row][model.lengths.get(row, 0) :][:size] for row, size in now.items()}
        for row, logits in model.step(fed).items():
            got[row].append(logits)
    return {row: torch.cat(logits) for row, logits in got.items()}


def greedy(model: RaggedModel, prompt: list[int]) -> list[int]:
    """The likeliest tokens after a prompt, one by one."""
    chosen: list[int] = []
    logits = model.step({"greedy": prompt})["greedy"]
    while len(chosen) < NUM_GENERATED:
        chosen.append(int(logits[-1].argmax()))
        logits = model.step({"greedy": chosen[-1:]})["greedy"]
    return chosen


@pytest.mark.parametrize(("architecture", "variant"), VARIANTS)
def test_logits_and_greedy_tokens_are_those_of_transformers(tmp_path: Path, architecture: str, variant: str) -> None:
    folder = make_checkpoint(tmp_path, architecture, variant)
    oracle = getattr(transformers, architecture).from_pretrained(folder)
    expected = {row: transformers_logits(oracle, token_ids) for row, token_ids in ROWS.items()}
    prompt = torch.tensor([ROWS["chunked"]])
    generated = oracle.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NUM_GENERATED, do_sample=False, eos_token_id=-1
    )
    backends: list[Kernels] = [ReferenceKernels(), CpuKernels()]
    for kernels in backends:
        model = RaggedModel(folder, kernels=kernels)
        for row, logits in ragged_logits(model).items():
            torch.testing.assert_close(logits, expected[row], atol=1e-4, rtol=0)
        assert greedy(model, ROWS["chunked"]) == generated[0, prompt.shape[1] :].tolist()


@dataclass(frozen=True)
class Unsplit:
    """A variant's folder, and a row's logits in one process."""

    architecture: str
    folder: Path
    num_heads: int
    logits: torch.Tensor


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Unsplit]:
    root, found = tmp_path_factory.mktemp("variants"), {}
    for number, (architecture, variant) in enumerate(VARIANTS):
        folder = make_checkpoint(root / str(number), architecture, variant)
        model = RaggedModel(folder)
        logits = model.step({"row": ROWS["whole"]})["row"]
        found[f"{architecture}, {variant}"] = Unsplit(architecture, folder, model.config.num_attention_heads, logits)
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_split_over_ranks_each_gives_the_logits_of_one_process(
    tmp_path: Path, unsplit: dict[str, Unsplit], size: int
) -> None:
    splittable = {name: each for name, each in unsplit.items() if each.num_heads % size == 0}
    assert {each.architecture for each in splittable.values()} == set(FAMILIES)
    folders = {name: each.folder for name, each in splittable.items()}
    expected = {name: each.logits for name, each in splittable.items()}
    encoder = RaggedModel(make_checkpoint(tmp_path / "encoder", "BertModel"))
    encoder.run({"row": ROWS["whole"]})
    folders["an encoder"] = encoder.checkpoint.path
    expected["an encoder"] = encoder.forward.hidden_states(np.arange(len(ROWS["whole"])))
    on_ranks(size, check_models, tmp_path, folders, ROWS["whole"], expected)


def test_every_architecture_that_generates_is_tested() -> None:
    assert set(generating_architectures()) == set(FAMILIES)


@pytest.mark.parametrize(("max_model_len", "is_long"), [(16, False), (17, True)])
def test_longrope_has_the_long_factors_where_sequences_can_be_over_the_original_length(
    tmp_path: Path, max_model_len: int, is_long: bool
) -> None:
    """transformers goes by the sequence itself."""
    folder = make_checkpoint(tmp_path, "Phi3ForCausalLM", "longrope")
    oracle = transformers.Phi3ForCausalLM.from_pretrained(folder)
    token_ids = tokens(17, 6) if is_long else tokens(12, 5)
    actual = RaggedModel(folder, max_model_len=max_model_len).step({"row": token_ids})["row"]
    torch.testing.assert_close(actual, transformers_logits(oracle, token_ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "OPTForCausalLM"])
def test_positions_that_no_sequence_reaches_are_not_kept(tmp_path: Path, architecture: str) -> None:
    folder = make_checkpoint(tmp_path, architecture)
    whole, shorter = RaggedModel(folder), RaggedModel(folder, max_model_len=30)
    sizes = [sum(p.numel() for _, p in model.model.named_parameters()) for model in (whole, shorter)]
    assert sizes[0] - sizes[1] == (128 - 30) * 32
    row = {"row": ROWS["whole"]}
    assert torch.equal(whole.step(row)["row"], shorter.step(row)["row"])


@pytest.mark.parametrize(
    ("architecture", "masks"),
    [("LlamaForCausalLM", []), ("GPT2LMHeadModel", ["h.0.attn.bias", "h.1.attn.masked_bias"]), ("OPTForCausalLM", [])],
)
def test_a_checkpoint_saved_from_the_model_without_its_head_is_read(
    tmp_path: Path, architecture: str, masks: list[str]
) -> None:
    """GPT-2's own is one, and has the causal mask as tensors."""
    folder, row = make_checkpoint(tmp_path, architecture, tie_word_embeddings=True), {"row": ROWS["whole"]}
    expected = RaggedModel(folder).step(row)["row"]
    prefix = getattr(transformers, architecture).base_model_prefix + "."
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(bare | {name: torch.ones(1, 1, 8, 8) for name in masks}, folder / "model.safetensors")
    assert torch.equal(RaggedModel(folder).step(row)["row"], expected)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_bin_checkpoint_is_the_same_model(tmp_path: Path, architecture: str) -> None:
    folder, row = make_checkpoint(tmp_path, architecture), {"row": ROWS["whole"]}
    expected = RaggedModel(folder).step(row)["row"]
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(RaggedModel(folder).step(row)["row"], expected)


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", "OPTForCausalLM", "Phi3ForCausalLM"])
def test_fused_and_transposed_matrices_are_quantized_by_output(tmp_path: Path, architecture: str) -> None:
    folder = make_checkpoint(tmp_path, architecture)
    exact = dict(RaggedModel(folder).model.named_parameters())
    rounded = dict(RaggedModel(folder, quantization="int8").model.named_parameters())
    matrices = [name.removesuffix(".values") for name in rounded if name.endswith(".values")]
    assert len(matrices) == 2 * 4 + 1
    for name in matrices:
        values, scales = quantize_rows(exact[name])
        assert torch.equal(rounded[f"{name}.values"], values)
        assert torch.equal(rounded[f"{name}.scales"], scales)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_int8_weights_give_the_same_logits_on_the_reference_and_the_cpp_kernels(
    tmp_path: Path, architecture: str
) -> None:
    folder, row = make_checkpoint(tmp_path, architecture), {"row": ROWS["whole"]}
    expected = RaggedModel(folder, quantization="int8").step(row)["row"]
    actual = RaggedModel(folder, quantization="int8", kernels=CpuKernels()).step(row)["row"]
    assert not torch.equal(expected, RaggedModel(folder).step(row)["row"])
    assert float((actual - expected).abs().mean()) < 1e-4 * float(expected.std())
