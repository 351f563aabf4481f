"""Loading: dtypes, dummy weights, and memory that stays at the model's own size."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch

from gguf_files import make_gguf
from octavo.checkpoints.locate import locate
from octavo.errors import ConfigError, ModelError
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.layers.parallel import TensorParallel
from octavo.models.loader import load_model, read_config, read_forms, resolve_cache_dtype, resolve_dtype
from tiny_checkpoints import TINY_LLAMA, make_llama


class Ungrouped(ReferenceKernels):
    """As those of GPUs."""

    has_grouped_weights = False


BUILD = ModelBuild(torch.float32, torch.device("cpu"), ReferenceKernels())
CONFIG = replace(TINY_LLAMA, attention_bias=True, checkpoint_dtype=torch.float16)
LOADS_SMOLLM2 = """
import json, os, sys, threading, torch

def anonymous_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

bare = anonymous_bytes()
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.loader import load_model, read_config, read_forms
from octavo.checkpoints.locate import locate
from dataclasses import replace

def load(dtype, quantization):
    peak, loaded = 0, threading.Event()

    def watch():
        nonlocal peak
        while not loaded.wait(0.002):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    checkpoint = locate("smollm2")
    build = ModelBuild(getattr(torch, dtype), torch.device("cpu"), ReferenceKernels(), quantization=quantization)
    config = read_config(checkpoint)
    build = replace(build, forms=read_forms(config, build, checkpoint, "auto"))
    model = load_model(config, build, checkpoint)
    loaded.set()
    watcher.join()
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    return {"size": size, "grown": anonymous_bytes() - bare, "peak": peak - bare}

for case in sys.argv[1:]:  # each in a process of its own, all with what is imported here
    if (child := os.fork()) == 0:
        print(json.dumps([case, load(*case.split())]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
LOADED = {"float32 none": 4, "bfloat16 int8": 1, "bfloat16 auto": 0.72}
"""What SmolLM2 is loaded as, and the bytes of a weight then."""


@pytest.fixture(scope="module")
def memory() -> dict[str, dict[str, int]]:
    """Bytes of the loaded model, and by how much the process grew in the end and at its peak, for each case."""
    command = [sys.executable, "-c", LOADS_SMOLLM2, *LOADED]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(line) for line in printed.splitlines())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon from Linux's /proc")
@pytest.mark.parametrize("case", LOADED)
def test_loading_takes_the_models_size_and_little_more(memory: dict[str, dict[str, int]], case: str) -> None:
    size = memory[case]["size"]
    assert 134_000_000 * LOADED[case] < size < 136_000_000 * LOADED[case] + 2_500_000
    assert memory[case]["grown"] <= size + 100 * 10**6
    assert memory[case]["peak"] <= size + 100 * 10**6


def test_kernels_without_weights_in_groups_get_them_widened_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_llama(tmp_path, hidden_size=64, intermediate_size=96, tie_word_embeddings=True)
    checkpoint = locate(str(make_gguf(tmp_path / "model.gguf", folder, gguf.GGMLQuantizationType.Q8_0)))
    config, build = read_config(checkpoint), replace(BUILD, kernels=Ungrouped(), quantization="auto")
    assert read_forms(config, build, checkpoint, "auto") == {}
    assert "'reference' have no weights in groups: 15 matrices of 4 and 8 bits are widened to float32" in caplog.text
    caplog.clear()
    assert len(read_forms(config, replace(build, kernels=ReferenceKernels()), checkpoint, "auto")) == 15
    assert not caplog.text


def test_auto_dtype_is_the_checkpoints_and_others_are_as_named() -> None:
    assert resolve_dtype("auto", CONFIG) == torch.float16
    for name in ("float32", "bfloat16", "float16", "float64"):
        assert resolve_dtype(name, CONFIG) == getattr(torch, name)
    with pytest.raises(ConfigError, match=r"float12.*--dtype.*auto, float32"):
        resolve_dtype("float12", CONFIG)


def test_auto_cache_dtype_is_the_models_and_others_are_as_named() -> None:
    assert resolve_cache_dtype("auto", torch.float64) == torch.float64
    for name in ("float32", "bfloat16", "float16", "int8"):
        assert resolve_cache_dtype(name, torch.bfloat16) == getattr(torch, name)
    assert resolve_cache_dtype("fp8", torch.bfloat16) == torch.float8_e4m3fn
    with pytest.raises(ConfigError, match=r"int4.*--kv-cache-dtype.*auto, int8, fp8"):
        resolve_cache_dtype("int4", torch.bfloat16)


def test_dummy_weights_can_be_quantized() -> None:
    exact = dict(load_model(CONFIG, BUILD, None, load_format="dummy").named_parameters())
    build = replace(BUILD, quantization="int8")
    rounded = dict(load_model(CONFIG, build, None, load_format="dummy").named_parameters())
    values, scales = (rounded[f"layers.1.mlp.down_proj.weight.{part}"] for part in ("values", "scales"))
    error = (values * scales.unsqueeze(1) - exact["layers.1.mlp.down_proj.weight"]).abs()
    assert (error <= scales.unsqueeze(1) * 0.50001).all()


def test_dummy_weights_vary_and_leave_norms_alone() -> None:
    parameters = dict(load_model(CONFIG, BUILD, None, load_format="dummy").named_parameters())
    for name, parameter in parameters.items():
        if "norm" in name:
            assert bool((parameter == 1).all()), name
        else:
            assert 0.005 < float(parameter.std()) < 0.05, name
            assert len(set(parameter.flatten().tolist())) > parameter.numel() // 2, name


def test_dummy_weights_are_those_of_their_seed() -> None:
    first, same, other = (
        dict(load_model(CONFIG, BUILD, None, load_format="dummy", seed=seed).named_parameters()) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])


def test_dummy_weights_of_two_ranks_are_halves_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.checkpoints.dummy.SLICE_ELEMENTS", 7 * CONFIG.hidden_size)
    whole = dict(load_model(CONFIG, BUILD, None, load_format="dummy").named_parameters())
    halves = [
        dict(
            load_model(
                CONFIG, replace(BUILD, tensor_parallel=TensorParallel(rank, 2)), None, load_format="dummy"
            ).named_parameters()
        )
        for rank in range(2)
    ]
    for name, dimension in (("embed_tokens.weight", 0), ("layers.1.mlp.down_proj.weight", 1)):
        joined = torch.cat([half[name] for half in halves], dim=dimension)
        torch.testing.assert_close(joined, whole[name], atol=0, rtol=0)


def test_dummy_weights_ignore_the_checkpoints_files(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    (folder / "model.safetensors").unlink()
    checkpoint = locate(str(folder))
    load_model(read_config(checkpoint), BUILD, checkpoint, load_format="dummy")


def test_without_a_checkpoint_only_dummy_weights_can_be_loaded() -> None:
    with pytest.raises(ModelError, match="--load-format dummy"):
        load_model(CONFIG, BUILD, None)


def test_a_loaded_model_has_no_meta_tensors_and_needs_no_gradients(tmp_path: Path) -> None:
    checkpoint = locate(str(make_llama(tmp_path, tie_word_embeddings=True)))
    model = load_model(read_config(checkpoint), BUILD, checkpoint)
    for module in model.modules():
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))
    assert not any(parameter.requires_grad for _, parameter in model.named_parameters())


def test_progress_is_shown_only_when_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = locate(str(make_llama(tmp_path)))
    config = read_config(checkpoint)
    capfd.readouterr()
    load_model(config, BUILD, checkpoint)
    assert capfd.readouterr().err == ""
    load_model(config, BUILD, checkpoint, progress=True)
    assert "Loading weights: 100%" in capfd.readouterr().err
