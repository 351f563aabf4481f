"""A checkpoint's fields say how a prompt becomes a vector or scores of classes."""

from typing import Any

import pytest

from octavo.checkpoints.sentence_files import SentenceFiles
from octavo.errors import ModelError
from octavo.models.config import ModelConfig
from octavo.models.registry import config_of, translated
from octavo.pooling import Pooling
from tiny_checkpoints import TINY, TINY_ENCODER


def read(architecture: str, files: SentenceFiles | None = None, **fields: Any) -> ModelConfig:
    shape = TINY_ENCODER if architecture.startswith(("Bert", "Roberta", "XLM")) else TINY
    raw = {"architectures": [architecture], **shape, **fields}
    return config_of(translated(raw, "config.json"), "config.json", None, files)


def test_without_files_a_decoder_pools_by_the_last_token_and_an_encoder_by_the_first() -> None:
    decoder = read("LlamaForCausalLM")
    assert decoder.generates
    assert decoder.pooling == Pooling(kind="last", is_declared=False)
    assert read("LlamaModel").pooling == Pooling(kind="last", is_declared=True)
    encoder = read("BertModel")
    assert not encoder.generates
    assert encoder.pooling == Pooling(kind="cls", is_declared=True, is_causal=False)


def test_a_checkpoint_made_to_embed_pools_as_its_files_say_and_generates_nothing() -> None:
    config = read("Qwen3ForCausalLM", SentenceFiles("mean", normalize=False, max_tokens=50))
    assert config.pooling == Pooling(kind="mean", is_declared=True, normalize=False)
    assert not config.generates
    assert config.max_position_embeddings == 50


def test_a_roberta_has_positions_for_as_many_tokens_as_its_table_has_rows_behind_padding() -> None:
    assert read("RobertaModel", max_position_embeddings=514, pad_token_id=1).max_position_embeddings == 512
    assert read("BertModel", max_position_embeddings=512).max_position_embeddings == 512


@pytest.mark.parametrize(
    ("fields", "labels", "activation"),
    [
        ({}, ("LABEL_0", "LABEL_1"), "softmax"),
        ({"num_labels": 1}, ("LABEL_0",), "sigmoid"),
        ({"id2label": {"0": "no", "1": "yes", "2": "maybe"}}, ("no", "yes", "maybe"), "softmax"),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, ("LABEL_0", "LABEL_1"), "sigmoid"),
        ({"num_labels": 1, "problem_type": "regression"}, ("LABEL_0",), "identity"),
        (
            {"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
            ("LABEL_0",),
            "identity",
        ),
        (
            {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
            ("LABEL_0",),
            "sigmoid",
        ),
    ],
)
def test_classes_and_what_makes_probabilities_of_them_are_read(
    fields: dict[str, Any], labels: tuple[str, ...], activation: str
) -> None:
    pooling = read("BertForSequenceClassification", **fields).pooling
    assert (pooling.kind, pooling.labels, pooling.activation) == ("cls", labels, activation)


def test_other_activations_and_types_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="problem_type 'ranking' is not known"):
        read("BertForSequenceClassification", problem_type="ranking")
    with pytest.raises(ModelError, match="num_labels"):
        read("BertForSequenceClassification", num_labels="two")


@pytest.mark.parametrize("architecture", ["LlamaBidirectionalModel", "LlamaModel"])
def test_a_decoder_sees_both_ways_by_its_name_or_its_field(architecture: str) -> None:
    fields = {"is_causal": False} if architecture == "LlamaModel" else {"pooling": "avg"}
    pooling = read(architecture, **fields).pooling
    assert not pooling.is_causal
    assert pooling.kind == ("mean" if fields.get("pooling") else "last")


def test_an_architecture_that_has_no_attention_both_ways_refuses_the_field() -> None:
    with pytest.raises(ModelError, match="is_causal=False, which Octavo's MixtralForCausalLM does not do"):
        read("MixtralForCausalLM", SentenceFiles("mean", True), is_causal=False, num_local_experts=2)
