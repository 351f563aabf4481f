"""Encoders behind LLM: vectors, pairs and classes are those of transformers, whatever runs beside them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import processors, trainers

from octavo import LLM, PoolingParams
from octavo.checkpoints.locate import locate
from octavo.errors import ModelError, RequestError
from tiny_checkpoints import make_checkpoint
from tiny_tokenizers import CORPUS

pytestmark = pytest.mark.usefixtures("one_thread")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
QUERY = "the lazy dog"
DOCUMENTS = ["another mother mind", "def decode tokens", "quick brown fox jumps over the quick old lazy dog"]
EMBEDS = {
    "modules.json": [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 60},
}


def make_bert(folder: Path, architecture: str, files: dict[str, Any] | None = None, **fields: Any) -> Path:
    """A tiny BERT with a WordPiece tokenizer, which puts [CLS] and [SEP] around texts and marks those of pairs."""
    backend = tokenizers.BertWordPieceTokenizer(lowercase=True)._tokenizer
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    make_checkpoint(folder, architecture, vocab_size=300, sep_token_id=None, **fields)
    roles = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    saved: Any = transformers.PreTrainedTokenizerFast
    saved(tokenizer_object=backend, **roles).save_pretrained(folder)
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def encoded(folder: Path, *texts: str) -> Any:
    tokenizer: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer(*texts, return_tensors="pt", return_token_type_ids=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"), "BertModel", EMBEDS)


@pytest.fixture(scope="module")
def open_llm() -> Iterator[Callable[..., LLM]]:
    opened: list[LLM] = []

    def open_one(folder: Path | str, **knobs: Any) -> LLM:
        opened.append(LLM(str(folder), **{"kv_cache_memory": "4MiB", **knobs}))
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.close()


def mean_vector(folder: Path | str, text: str) -> np.ndarray:
    """The unit vector of the mean of a text's last hidden states, as transformers has them."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder)
    with torch.inference_mode():
        state = model(input_ids=tokenizer(text, return_tensors="pt").input_ids).last_hidden_state[0].mean(0)
    vector: np.ndarray = (state / state.norm()).numpy()
    return vector


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_embeddings_are_pooled_as_the_checkpoint_says(bert: Path, open_llm: Callable[..., LLM], kernels: str) -> None:
    llm = open_llm(bert, kernels=kernels)
    for output, text in zip(llm.embed([QUERY, *DOCUMENTS], use_tqdm=False), [QUERY, *DOCUMENTS], strict=True):
        np.testing.assert_allclose(output.outputs.embedding, mean_vector(bert, text), atol=1e-5)
    [likeness] = llm.score(QUERY, DOCUMENTS[2], use_tqdm=False)
    assert likeness.outputs.score == pytest.approx(mean_vector(bert, QUERY) @ mean_vector(bert, DOCUMENTS[2]), abs=1e-5)


def test_a_decoder_that_sees_both_ways_embeds_through_its_windows(tmp_path: Path, open_llm: Callable[..., LLM]) -> None:
    folder = make_bert(tmp_path, "Gemma3TextModel", EMBEDS, use_bidirectional_attention=True, pad_token_id=0)
    texts = [" ".join([QUERY, *DOCUMENTS]), QUERY]
    llm = open_llm(folder, block_size=4)
    for output, text in zip(llm.embed(texts, use_tqdm=False), texts, strict=True):
        np.testing.assert_allclose(output.outputs.embedding, mean_vector(folder, text), atol=1e-5)


def test_layers_behind_pooling_make_the_embedding(tmp_path: Path, open_llm: Callable[..., LLM]) -> None:
    before, pooling, normalize = EMBEDS["modules.json"]
    dense = [{"path": path, "type": "sentence_transformers.models.Dense"} for path in ("2_Dense", "3_Dense")]
    files = EMBEDS | {
        "modules.json": [before, pooling, *dense, normalize],
        "2_Dense/config.json": {"in_features": 32, "out_features": 50},
        "3_Dense/config.json": {
            "in_features": 50,
            "out_features": 6,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    }
    folder = make_bert(tmp_path, "BertModel", files)
    torch.manual_seed(0)
    wide, bias, narrow = torch.randn(50, 32), torch.randn(50), torch.randn(6, 50)
    save_file({"linear.weight": wide, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    torch.save({"linear.weight": narrow}, folder / "3_Dense" / "pytorch_model.bin")
    [output] = open_llm(folder).embed(QUERY, use_tqdm=False)
    model: Any = transformers.AutoModel.from_pretrained(folder)
    with torch.inference_mode():
        state = model(**encoded(folder, QUERY)).last_hidden_state[0].mean(0)
        expected = narrow @ (wide @ state + bias).tanh()
    np.testing.assert_allclose(output.outputs.embedding, expected / expected.norm(), atol=1e-5)


def test_a_texts_bits_are_the_same_beside_others_and_when_blocks_are_few(
    bert: Path, open_llm: Callable[..., LLM]
) -> None:
    texts = [f"{QUERY} {document}" for document in DOCUMENTS] * 4
    alone = [open_llm(bert, max_num_seqs=1).embed(text, use_tqdm=False)[0] for text in texts[:3]] * 4
    for knobs in ({}, {"max_num_batched_tokens": 64, "max_num_seqs": 8, "kv_cache_memory": "128KiB"}):
        together = open_llm(bert, **knobs).embed(texts, use_tqdm=False)
        for one, other in zip(alone, together, strict=True):
            assert one.outputs.embedding == other.outputs.embedding


def test_an_encoder_generates_nothing_and_takes_no_longer_text_than_it_was_made_for(
    bert: Path, open_llm: Callable[..., LLM]
) -> None:
    llm = open_llm(bert)
    with pytest.raises(RequestError, match="no task 'generate'"):
        llm.generate(QUERY, use_tqdm=False)
    with pytest.raises(RequestError, match="maximum context length is 60 tokens"):
        llm.embed({"prompt_token_ids": [7] * 61}, use_tqdm=False)


@pytest.mark.parametrize(
    ("activation", "activate"), [("linear.Identity", lambda logit: logit), ("activation.Sigmoid", torch.sigmoid)]
)
def test_a_cross_encoder_scores_pairs_by_its_head(
    tmp_path: Path, open_llm: Callable[..., LLM], activation: str, activate: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """The second text is a segment of its own."""
    architecture = "BertForSequenceClassification"
    folder = make_bert(
        tmp_path, architecture, num_labels=1, sbert_ce_default_activation_function=f"torch.nn.modules.{activation}"
    )
    oracle: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    scores = open_llm(folder).score(QUERY, DOCUMENTS, use_tqdm=False)
    for score, document in zip(scores, DOCUMENTS, strict=True):
        pair = encoded(folder, QUERY, document)
        assert pair.token_type_ids.sum() > 0
        with torch.inference_mode():
            expected = activate(oracle(**pair).logits[0, 0])
        assert score.outputs.score == pytest.approx(float(expected), abs=1e-4)


def test_classes_are_told_with_their_probabilities(tmp_path: Path, open_llm: Callable[..., LLM]) -> None:
    folder = make_bert(tmp_path, "BertForSequenceClassification", num_labels=3)
    oracle: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    llm = open_llm(folder)
    with torch.inference_mode():
        logits = oracle(**encoded(folder, QUERY)).logits[0]
    [output] = llm.classify(QUERY, use_tqdm=False)
    np.testing.assert_allclose(output.outputs.probs, logits.softmax(0), atol=1e-5)
    [output] = llm.classify(QUERY, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
    np.testing.assert_allclose(output.outputs.probs, logits, atol=1e-4)


def test_the_real_minilm_gives_the_vectors_of_transformers(open_llm: Callable[..., LLM]) -> None:
    try:
        folder = locate("minilm").path
    except ModelError as error:
        pytest.skip(f"needs the real weights: {error}")
    texts = [
        "A cat sits on the mat.",
        "Felines like to rest on carpets.",
        "The central bank raised interest rates again in spring.",
        "word " * 200,
    ]
    llm = open_llm("minilm", kv_cache_memory="64MiB")
    found = np.array([output.outputs.embedding for output in llm.embed(texts, use_tqdm=False)])
    for vector, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(vector, mean_vector(folder, text), atol=1e-5)
    assert found[0] @ found[1] > 0.4 > 0.2 > found[0] @ found[2]
