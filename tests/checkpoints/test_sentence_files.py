"""The files of Sentence Transformers say how a checkpoint embeds; what Octavo does not do is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.checkpoints.sentence_files import SentenceFiles, read_sentence_files
from octavo.errors import ModelError
from octavo.pooling import Dense

POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def write(
    folder: Path,
    modules: list[str],
    pooling: dict[str, Any],
    transformer: dict[str, Any] | None = None,
    dense: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """A folder with modules in their order, each in its own but the first."""
    paths = ["" if place == 0 else f"{place}_{name}" for place, name in enumerate(modules)]
    told = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (name, path) in enumerate(zip(modules, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(told))
    for path in paths:
        (folder / path).mkdir(exist_ok=True)
    if "Pooling" in modules:
        (folder / paths[modules.index("Pooling")] / "config.json").write_text(json.dumps(pooling))
    for path, config in (dense or {}).items():
        (folder / path / "config.json").write_text(json.dumps(config))
    if transformer is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
    return folder


def test_a_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_files(tmp_path) is None


def test_pooling_normalization_and_the_longest_text_are_read(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Normalize"], POOLING, {"max_seq_length": 256, "do_lower_case": False})
    assert read_sentence_files(tmp_path) == SentenceFiles("mean", normalize=True, max_tokens=256)


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        ({"pooling_mode_cls_token": True, "include_prompt": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 1024}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 384}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_either_spelling_of_a_kind_of_pooling_is_read(tmp_path: Path, pooling: dict[str, Any], kind: str) -> None:
    found = read_sentence_files(write(tmp_path, ["Transformer", "Pooling"], pooling))
    assert found is not None
    assert (found.kind, found.normalize, found.max_tokens) == (kind, False, None)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "weightedmean"},
        {},
    ],
)
def test_other_pooling_is_refused(tmp_path: Path, pooling: dict[str, Any]) -> None:
    told = ".*".join(pooling.values() if "pooling_mode" in pooling else pooling) or "no pooling mode"
    with pytest.raises(ModelError, match=rf"1_Pooling/config\.json asks for .*{told}.*; Octavo pools by one of"):
        read_sentence_files(write(tmp_path, ["Transformer", "Pooling"], pooling))


def test_layers_behind_pooling_are_read_in_their_order(tmp_path: Path) -> None:
    modules = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    wide = {"in_features": 8, "out_features": 20, "activation_function": "torch.nn.modules.linear.Identity"}
    narrow = {"in_features": 20, "out_features": 6, "bias": False}
    write(tmp_path, modules, POOLING, dense={"2_Dense": wide, "3_Dense": narrow})
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert found.dense == (Dense("2_Dense", 8, 20, True, "identity"), Dense("3_Dense", 20, 6, False, "tanh"))
    (tmp_path / "3_Dense/config.json").write_text(json.dumps({**narrow, "activation_function": "torch.nn.ELU"}))
    with pytest.raises(ModelError, match=r"3_Dense/config\.json has activation_function 'torch\.nn\.ELU'"):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    "modules", [["Transformer", "Pooling", "LSTM", "Normalize"], ["Transformer", "Normalize", "Pooling"]]
)
def test_other_modules_are_refused(tmp_path: Path, modules: list[str]) -> None:
    with pytest.raises(
        ModelError, match=rf"modules\.json has the modules Transformer .*{modules[2]} \(2_{modules[2]}\)"
    ):
        read_sentence_files(write(tmp_path, modules, POOLING))


def test_modules_that_pool_nothing_say_nothing(tmp_path: Path) -> None:
    assert read_sentence_files(write(tmp_path, ["Transformer", "LogitScore"], {})) is None


def test_lowering_texts_is_the_tokenizers_work(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling"], POOLING, {"do_lower_case": True})
    with pytest.raises(ModelError, match="do_lower_case"):
        read_sentence_files(tmp_path)
    normalizer = {"type": "BertNormalizer", "lowercase": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    assert read_sentence_files(tmp_path) is not None
