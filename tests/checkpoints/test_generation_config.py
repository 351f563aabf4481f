"""The sampling defaults of a model, wherever they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_files import make_gguf
from octavo import LLM, SamplingParams
from octavo.checkpoints.generation_config import SamplingDefaults, read_sampling_defaults
from octavo.checkpoints.locate import locate
from octavo.config import EngineConfig
from octavo.errors import ConfigError, ModelError, RequestError
from octavo.models.loader import read_config
from tiny_checkpoints import make_llama

OWN = {"do_sample": True, "temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "eos_token_id": 2, "max_new_tokens": 64}


def folder_with(folder: Path, **fields: Any) -> Path:
    """A folder that `locate` takes for a model, with this generation_config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def defaults(model: Path, **knobs: Any) -> SamplingDefaults:
    return read_sampling_defaults(EngineConfig(model=str(model), **knobs))


def test_a_folders_own_are_those_that_sampling_knows(tmp_path: Path) -> None:
    found = defaults(folder_with(tmp_path, **OWN, min_p=None, num_beams=4))
    assert found.values == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert found.max_tokens == 64
    assert str(found) == "temperature 0.6, top_k 20, top_p 0.95, at most 64 tokens (from generation_config.json)"


def test_a_folder_without_the_file_and_none_leave_the_engines(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, **OWN)
    for name in ("none", "vllm"):
        assert defaults(folder, generation_config=name) == SamplingDefaults()
    (folder / "generation_config.json").unlink()
    assert defaults(folder).values == {}
    assert str(defaults(folder)) == "the engine's own"


def test_another_folders_take_the_place_of_the_models_and_its_ends_count(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "model")
    other = folder_with(tmp_path / "other", temperature=0.1, eos_token_id=[7, 9])
    assert defaults(model, generation_config=str(other)).values == {"temperature": 0.1}
    assert read_config(locate(str(model)), other).eos_token_ids == (2, 7, 9)
    gguf = make_gguf(tmp_path / "model.gguf", model)
    assert read_config(locate(str(gguf)), other).eos_token_ids == (2, 7, 9)
    assert read_config(locate(str(gguf))).eos_token_ids == (2,)


def test_a_gguf_files_metadata_have_them_under_other_names(tmp_path: Path) -> None:
    metadata = {"temp": 0.5, "top_k": 20, "top_p": 0.25, "min_p": 0.125, "penalty_repeat": 1.5, "mirostat": 1}
    given = {f"general.sampling.{name}": value for name, value in metadata.items()}
    path = make_gguf(tmp_path / "model.gguf", make_llama(tmp_path), metadata=given)
    assert defaults(path).values == {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 20,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
    }
    assert defaults(path, generation_config="none").values == {}


def test_overriding_goes_before_the_models_own(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, **OWN)
    over = '{"temperature": 0.1, "min_p": 0.2, "max_new_tokens": 5}'
    found = defaults(folder, override_generation_config=over)
    assert found.values == {"temperature": 0.1, "top_k": 20, "top_p": 0.95, "min_p": 0.2}
    assert found.max_tokens == 5
    assert str(found).endswith("(from generation_config.json and --override-generation-config)")
    alone = defaults(folder, generation_config="none", override_generation_config=over)
    assert alone.values == {"temperature": 0.1, "min_p": 0.2}


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"generation_config": "nowhere"}, "--generation-config nowhere is no folder with a generation_config.json"),
        ({"generation_config": ""}, "--generation-config"),
        ({"override_generation_config": "{"}, "--override-generation-config is not JSON"),
        ({"override_generation_config": "[]"}, "--override-generation-config must be a JSON object"),
        (
            {"override_generation_config": '{"temprature": 1}'},
            "a JSON object with any of temperature, .*tempra",
        ),
        ({"override_generation_config": '{"temperature": -1}'}, "--override-generation-config .*temperature must be"),
        ({"override_generation_config": '{"top_k": 2.5}'}, "--override-generation-config .*Expected `int`"),
    ],
)
def test_a_flag_that_cannot_work_is_refused(tmp_path: Path, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        defaults(folder_with(tmp_path), **knobs)


@pytest.mark.parametrize("fields", [{"temperature": "hot"}, {"top_p": 7}, {"max_new_tokens": 0}, {"top_k": True}])
def test_a_models_own_that_cannot_be_used_are_refused_with_the_way_out(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(
        ModelError, match=rf"generation_config.json has .*{next(iter(fields))}.*--generation-config none"
    ):
        defaults(folder_with(tmp_path, **fields))


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json cannot be read as a JSON object"):
        defaults(folder)


def test_they_go_where_a_request_says_nothing() -> None:
    found = SamplingDefaults({"temperature": 0.5, "top_p": 0.9}, max_tokens=8)
    assert found.applied(SamplingParams(), ()) == SamplingParams(temperature=0.5, top_p=0.9, max_tokens=8)
    brought = SamplingParams(temperature=1.0, max_tokens=3)
    assert found.applied(brought, {"temperature", "max_tokens"}) == SamplingParams(top_p=0.9, max_tokens=3)
    assert found.applied(SamplingParams(max_tokens=9), {"max_tokens"}).max_tokens == 8
    with pytest.raises(RequestError, match="min_tokens=9 is over the 8 tokens"):
        found.applied(SamplingParams(min_tokens=9), {"min_tokens"})


def test_a_call_of_llm_without_parameters_has_them_and_one_with_parameters_has_its_own() -> None:
    override = {"temperature": 0, "max_new_tokens": 6}
    with LLM("smollm2", kv_cache_memory="8MiB", override_generation_config=override) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(temperature=0, max_tokens=6)
        greedy = llm.generate("The sea is", llm.get_default_sampling_params(), use_tqdm=False)
        assert llm.generate("The sea is", use_tqdm=False)[0].outputs[0].text == greedy[0].outputs[0].text
        own = llm.generate("The sea is", SamplingParams(max_tokens=9, ignore_eos=True), use_tqdm=False)
        assert len(own[0].outputs[0].token_ids) == 9
    with pytest.raises(ConfigError, match="--override-generation-config must be a JSON object"):
        LLM("smollm2", override_generation_config={"stop": {1, 2}})
