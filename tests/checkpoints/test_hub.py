"""Models on the hub, from a server that stands in for it: only what is needed is downloaded, once, and checked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import tokenizers
from safetensors.torch import load_file
from tokenizers import decoders, models, pre_tokenizers

from hub import Hub, Repository, folder_files
from octavo import LLM, SamplingParams
from octavo.checkpoints import checksums
from octavo.checkpoints.locate import locate
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.errors import ModelError
from octavo.models.loader import read_config
from octavo.tokenization.loading import load_tokenizer
from tiny_checkpoints import make_checkpoint, make_llama

SMALL = {"config.json", "generation_config.json", "tokenizer.json"}
SHARDS = {f"model-0000{shard}-of-00004.safetensors" for shard in (1, 2, 3, 4)}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in four safetensors files, with a tokenizer of single bytes."""
    folder = make_llama(tmp_path_factory.mktemp("model"), vocab_size=256, max_shard_size="45KB")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    assert {path.name for path in folder.iterdir()} == SMALL | SHARDS | {INDEX}
    return folder


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with the tiny model as `octavo/tiny`, beside files that are of no use here."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with Hub().serving() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        others = ("README.md", "consolidated.safetensors", "pytorch_model.bin", "original/model.safetensors", "a.gguf")
        hub.repositories["octavo/tiny"] = Repository()
        hub.repositories["octavo/tiny"].commit(folder_files(folder) | dict.fromkeys(others, b"of no use"))
        yield hub


def resolve(cache: Path, model: str = "octavo/tiny", *, weights: bool = True, **knobs: Any) -> Path:
    return Path(resolve_model(EngineConfig(model=model, download_dir=str(cache), **knobs), weights=weights).model)


def test_a_model_is_downloaded_and_answers_as_from_a_folder(hub: Hub, folder: Path, tmp_path: Path) -> None:
    answers = []
    for model in ("octavo/tiny", str(folder)):
        knobs = {"download_dir": str(tmp_path), "kv_cache_memory": "1MiB", "max_model_len": 64}
        with LLM(model, **knobs) as llm:
            assert llm.config.model == model
            [output] = llm.generate("Paper", SamplingParams(temperature=0, max_tokens=8), use_tqdm=False)
            answers.append(output.outputs[0].token_ids)
    assert answers[0] == answers[1]
    assert set(hub.downloads()) == SMALL | SHARDS | {INDEX}


def test_of_a_model_that_embeds_the_files_that_say_how_are_downloaded_too(hub: Hub, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "bert", "BertModel")
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [{"path": f"{i}_{kind}" if i else "", "type": f"st.{kind}"} for i, kind in enumerate(kinds)]
    files = folder_files(folder) | {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        "2_Dense/config.json": b'{"in_features": 32, "out_features": 9}',
        "2_Dense/model.safetensors": b"its weights",
        "2_Dense/pytorch_model.bin": b"of no use",
        "sentence_bert_config.json": b'{"max_seq_length": 50}',
        "onnx/model.onnx": b"of no use",
    }
    hub.repositories["octavo/bert"] = Repository()
    hub.repositories["octavo/bert"].commit(files)
    config = read_config(locate(str(resolve(tmp_path / "cache", "octavo/bert"))))
    assert (config.pooling.kind, config.pooling.normalize, config.max_position_embeddings) == ("mean", True, 50)
    assert config.pooling.width(32) == 9
    assert "2_Dense/model.safetensors" in hub.downloads()
    assert {"onnx/model.onnx", "2_Dense/pytorch_model.bin"}.isdisjoint(hub.downloads())


def test_a_second_start_downloads_nothing_and_a_commit_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    first = resolve(tmp_path)
    hub.requests.clear()
    assert resolve(tmp_path) == first
    assert hub.requests == ["/api/models/octavo/tiny/revision/main"]
    assert resolve(tmp_path, revision=first.name) == first
    assert hub.requests == ["/api/models/octavo/tiny/revision/main"]


def test_only_the_format_asked_for_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    assert (resolve(tmp_path, load_format="bin") / "pytorch_model.bin").read_bytes() == b"of no use"
    assert set(hub.downloads()) == SMALL | {"pytorch_model.bin"}
    assert resolve(tmp_path, load_format="gguf").name == "a.gguf"
    for knobs in ({"load_format": "dummy"}, {"weights": False}):
        hub.requests.clear()
        assert not list(resolve(tmp_path / "other", **knobs).glob("*.safetensors"))


def test_without_a_network_what_was_downloaded_is_taken(hub: Hub, tmp_path: Path) -> None:
    folder = resolve(tmp_path)
    hub.requests.clear()
    assert resolve(tmp_path, offline=True) == folder
    assert hub.requests == []
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # put back by the fixture
    assert resolve(tmp_path) == folder


def test_what_was_not_downloaded_and_cannot_be_is_an_error_that_says_so(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"octavo/tiny \(main\).*--offline was given"):
        resolve(tmp_path, offline=True)
    resolve(tmp_path, load_format="dummy")
    with pytest.raises(ModelError, match=r"not all of octavo/tiny.*--offline was given"):
        resolve(tmp_path, offline=True)
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # put back by the fixture
    with pytest.raises(ModelError, match=r"octavo/tiny.*the hub cannot be reached: .*[Cc]onnect"):
        resolve(tmp_path / "empty")


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, tmp_path: Path) -> None:
    files = {"config.json": b'{"a": 1}', "model.safetensors": b"old"}
    commit = hub.repositories["octavo/tiny"].commit(files, "v1", "refs/pr/1")
    for revision in ("v1", "refs/pr/1", commit):
        assert (resolve(tmp_path, revision=revision) / "model.safetensors").read_bytes() == b"old"
    assert resolve(tmp_path).name != commit
    with pytest.raises(ModelError, match=r"octavo/tiny has no revision 'v2' on the hub: change --revision"):
        resolve(tmp_path, revision="v2")


def test_a_model_that_is_nowhere_is_an_error_that_names_the_flag(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder octavo/huge here and no such model on the hub.*--model.*HF_TOKEN"):
        resolve(tmp_path, "octavo/huge")


def test_a_gated_model_needs_the_right_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["octavo/tiny"].token = "hf_right"
    with pytest.raises(ModelError, match=r"octavo/tiny is gated.*hf auth login.*HF_TOKEN"):
        resolve(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (resolve(tmp_path, load_format="dummy") / "config.json").is_file()


def test_a_damaged_download_is_refused_with_its_tensors_and_not_kept(hub: Hub, folder: Path, tmp_path: Path) -> None:
    whole, damaged, *_ = sorted(SHARDS)
    hub.damaged.add(damaged)
    tensor = next(iter(load_file(folder / damaged)))
    for _ in range(2):
        with pytest.raises(ModelError, match=rf"{damaged} of octavo/tiny .*checksum.*sha256.*{tensor}") as error:
            resolve(tmp_path)
        assert "deleted" in str(error.value)
    hub.damaged.clear()
    hub.requests.clear()
    assert (resolve(tmp_path) / damaged).read_bytes() == (folder / damaged).read_bytes()
    assert damaged in hub.downloads()
    assert whole not in hub.downloads()


def test_a_file_that_was_changed_in_the_cache_is_noticed(hub: Hub, tmp_path: Path) -> None:
    path = resolve(tmp_path) / sorted(SHARDS)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{path.name} .*checksum"):
        resolve(tmp_path, offline=True)


def test_each_file_is_verified_once(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def sha256(path: Path) -> str:
        read.append(path.name)
        return hashed(path)

    hashed = checksums._sha256
    monkeypatch.setattr(checksums, "_sha256", sha256)
    resolve(tmp_path)
    assert set(read) >= SHARDS
    read.clear()
    resolve(tmp_path)
    assert read == []


def test_a_broken_connection_is_taken_up_where_it_broke(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = sorted(SHARDS)[0]
    hub.cut[shard] = 20_000
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 8192)
    assert (resolve(tmp_path) / shard).read_bytes() == (folder / shard).read_bytes()
    assert [name for name in hub.downloads() if name.startswith(shard)] == [shard, f"{shard} from 16384"]


def test_what_came_before_the_connection_was_lost_is_kept(hub: Hub, tmp_path: Path) -> None:
    resolve(tmp_path, load_format="dummy")
    last = sorted(SHARDS)[-1]
    original = hub.repositories["octavo/tiny"].files("main")
    assert original is not None
    kept = original[1].pop(last)
    with pytest.raises(ModelError, match=r"octavo/tiny could not be downloaded.*try again"):
        resolve(tmp_path)
    original[1][last] = kept
    hub.requests.clear()
    assert (resolve(tmp_path) / last).read_bytes() == kept
    assert hub.downloads() == [last]


def test_a_vocabulary_in_two_files_is_downloaded_where_there_is_no_other(hub: Hub, tmp_path: Path) -> None:
    files = dict.fromkeys(("config.json", "vocab.json", "merges.txt", "pytorch_model.bin"), b"{}")
    hub.repositories["octavo/old"] = Repository()
    hub.repositories["octavo/old"].commit(files)
    assert {path.name for path in resolve(tmp_path, "octavo/old").iterdir()} == set(files)
    hub.repositories["octavo/old"].commit(files | {"tokenizer.json": b"{}"})
    found = {path.name for path in resolve(tmp_path, "octavo/old").iterdir()}
    assert found == {"config.json", "tokenizer.json", "pytorch_model.bin"}


def test_a_model_may_be_a_gguf_file_or_one_of_several(hub: Hub, tmp_path: Path) -> None:
    split = {f"big/tiny-Q8_0-0000{piece}-of-00002.gguf": b"half" for piece in (1, 2)}
    files = {"tiny-Q4_K_M.gguf": b"small", "mmproj-tiny.gguf": b"eyes", "README.md": b"-"}
    hub.repositories["octavo/one"] = Repository()
    hub.repositories["octavo/one"].commit(files)
    assert resolve(tmp_path, "octavo/one").read_bytes() == b"small"
    hub.repositories["octavo/several"] = Repository()
    hub.repositories["octavo/several"].commit(files | split)
    with pytest.raises(ModelError, match=r"several on the hub has 2 GGUF.*Q8_0-00001.*Q4_K_M.*--gguf-file"):
        resolve(tmp_path, "octavo/several")
    path = resolve(tmp_path, "octavo/several", gguf_file="q8_0")
    assert [path.parent / name.name for name in sorted(path.parent.iterdir())] == sorted(path.parent.glob("*.gguf"))
    assert {f"big/{each.name}" for each in path.parent.iterdir()} == set(split)
    assert path.name == "tiny-Q8_0-00001-of-00002.gguf"
    with pytest.raises(ModelError, match=r"has 0 that fit --gguf-file Q2.*tiny-Q4_K_M\.gguf"):
        resolve(tmp_path, "octavo/several", gguf_file="Q2")


def test_a_tokenizer_may_be_another_models(hub: Hub, tmp_path: Path) -> None:
    config = EngineConfig(model="smollm2", tokenizer="octavo/tiny", download_dir=str(tmp_path))
    resolved = resolve_model(config)
    assert resolved.model == "smollm2"
    assert load_tokenizer(resolved).decode(load_tokenizer(resolved).encode("Paper")) == "Paper"
    assert not [name for name in hub.downloads() if name.endswith(".safetensors")]


def test_getting_a_model_and_its_tokenizer_needs_no_torch(hub: Hub, tmp_path: Path) -> None:
    code = (
        "import sys; from octavo.config import EngineConfig; from octavo.checkpoints.resolve import resolve_model;"
        "from octavo.tokenization.loading import load_tokenizer;"
        "config = resolve_model(EngineConfig(model='octavo/tiny', download_dir=sys.argv[1]));"
        "load_tokenizer(config); assert 'torch' not in sys.modules; print(config.model)"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url}
    command = [sys.executable, "-c", code, str(tmp_path)]
    path = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    assert (Path(path) / sorted(SHARDS)[0]).is_file()
