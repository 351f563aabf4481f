"""Models that generate nothing compute the hidden states and the scores of classes that transformers does, on the
reference and the C++ kernels."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from octavo.errors import ModelError
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from ragged_model import RaggedModel
from tiny_checkpoints import POOLING_FAMILIES, make_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SEPARATOR = 5
BODIES = [
    (architecture, variant)
    for architecture, family in POOLING_FAMILIES.items()
    for variant in family.variants
    if not architecture.endswith("ForSequenceClassification")
]
CLASSIFIERS = [name for name in POOLING_FAMILIES if name.endswith("ForSequenceClassification")]


def tokens(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(6, 97) for _ in range(count)]


PAIR = [6, *tokens(9, 4), SEPARATOR, *tokens(6, 5), SEPARATOR]
ROWS = {"long": tokens(40, 1), "short": tokens(7, 2), "one token": tokens(1, 3), "pair": PAIR}


def backends() -> list[Kernels]:
    return [ReferenceKernels(), CpuKernels()]


def states(model: RaggedModel, rows: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Last hidden states of rows that are computed whole, in one batch."""
    model.run(rows)
    counts = [len(row) for row in rows.values()]
    hidden = model.forward.hidden_states(np.arange(sum(counts))).clone()
    return dict(zip(rows, torch.split_with_sizes(hidden, counts), strict=True))


def oracle_inputs(architecture: str, row: list[int], num_segments: int) -> dict[str, torch.Tensor]:
    """What transformers is given of a row. BERT's tokenizer tells it which of two texts a token is of."""
    inputs = {"input_ids": torch.tensor([row])}
    if architecture.startswith("Bert") and num_segments > 1 and SEPARATOR in row:
        first = row.index(SEPARATOR) + 1
        inputs["token_type_ids"] = torch.tensor([[0] * first + [1] * (len(row) - first)])
    return inputs


def load_oracle(folder: Path, architecture: str) -> Any:
    return getattr(transformers, architecture).from_pretrained(folder).eval()


@pytest.mark.parametrize(("architecture", "variant"), BODIES)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, architecture: str, variant: str) -> None:
    folder = make_checkpoint(tmp_path, architecture, variant)
    oracle = load_oracle(folder, architecture)
    oracle = getattr(oracle, "bert", oracle)
    num_segments = getattr(oracle.config, "type_vocab_size", 1)
    with torch.inference_mode():
        expected = {
            name: oracle(**oracle_inputs(architecture, row, num_segments)).last_hidden_state[0]
            for name, row in ROWS.items()
        }
    for kernels in backends():
        for name, hidden in states(RaggedModel(folder, kernels=kernels), ROWS).items():
            torch.testing.assert_close(hidden, expected[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_scores_of_classes_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    (variant,) = POOLING_FAMILIES[architecture].variants
    folder = make_checkpoint(tmp_path, architecture, variant)
    oracle = load_oracle(folder, architecture)
    for kernels in backends():
        model = RaggedModel(folder, kernels=kernels)
        pooling = model.config.pooling
        assert len(pooling.labels) == oracle.config.num_labels
        place = {"cls": 0, "last": -1}[pooling.kind]
        for name, hidden in states(model, ROWS).items():
            with torch.inference_mode():
                expected = oracle(**oracle_inputs(architecture, ROWS[name], 2)).logits
                scores = model.model.classify(hidden[place].unsqueeze(0))
            torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


def test_a_decoder_that_is_not_causal_sees_both_ways(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "LlamaModel", is_causal=False)
    oracle, row = load_oracle(folder, "LlamaModel"), ROWS["long"]
    with torch.inference_mode():
        sees_all = torch.zeros(1, 1, len(row), len(row))
        expected = oracle(input_ids=torch.tensor([row]), attention_mask=sees_all).last_hidden_state[0]
    for kernels in backends():
        model = RaggedModel(folder, kernels=kernels)
        assert not model.config.pooling.is_causal
        assert not model.layer_groups.is_causal
        torch.testing.assert_close(states(model, {"row": row})["row"], expected, atol=1e-4, rtol=0)


def test_rows_over_many_chunks_have_the_same_bits_alone_and_in_a_batch(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "BertModel", max_position_embeddings=600)
    rows = {"long": tokens(570, 7), **ROWS}
    with torch.inference_mode():
        oracle = load_oracle(folder, "BertModel")
        expected = oracle(input_ids=torch.tensor([rows["long"]])).last_hidden_state[0]
    model = RaggedModel(folder, kernels=CpuKernels(), num_blocks=400)
    together = states(model, rows)
    torch.testing.assert_close(together["long"], expected, atol=1e-4, rtol=0)
    for name, row in rows.items():
        assert torch.equal(states(model, {f"{name} alone": row})[f"{name} alone"], together[name])


def test_an_encoder_in_int8_is_close_to_itself_and_alike_on_both_backends(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "BertModel")
    exact = states(RaggedModel(folder), ROWS)
    ours, theirs = (states(RaggedModel(folder, kernels=kernels, quantization="int8"), ROWS) for kernels in backends())
    for name, hidden in ours.items():
        assert not torch.equal(hidden, exact[name])
        assert float((hidden - exact[name]).abs().mean()) < 0.1 * float(exact[name].std())
        assert float((hidden - theirs[name]).abs().mean()) < 1e-3 * float(exact[name].std())


def test_a_checkpoint_with_tensorflows_names_of_norms_is_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "BertModel")
    expected = states(RaggedModel(folder), ROWS)["long"]
    path = folder / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in load_file(path).items():
        end = next((end for end in old if name.endswith(end)), "")
        renamed[name.removesuffix(end) + old.get(end, "")] = tensor
    assert sum(name.endswith(".gamma") for name in renamed) == 5
    save_file(renamed, path)
    assert torch.equal(states(RaggedModel(folder), ROWS)["long"], expected)


def test_a_model_without_a_head_that_is_asked_for_logits_or_classes_says_so(tmp_path: Path) -> None:
    model = RaggedModel(make_checkpoint(tmp_path, "BertModel"))
    states(model, ROWS)
    with pytest.raises(ModelError, match="no head"):
        model.forward.logits(np.arange(1))
    with pytest.raises(ModelError, match="no head that scores classes"):
        model.model.classify(torch.zeros(1, 32))


def test_a_head_for_the_next_token_does_not_go_with_tokens_that_see_what_follows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot generate"):
        RaggedModel(make_checkpoint(tmp_path, "LlamaForCausalLM", is_causal=False))


@pytest.mark.parametrize("field", [{"position_embedding_type": "relative_key"}, {"is_decoder": True}])
def test_what_an_encoder_is_not_served_with_is_refused_by_name(tmp_path: Path, field: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(field))):
        RaggedModel(make_checkpoint(tmp_path, "BertModel", **field))
