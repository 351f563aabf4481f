"""The local executor picks kernels, says when they are not the best ones, and serves what its knobs ask for."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from late_queue import LateQueue
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.sampling_params import SamplingParams
from tiny_checkpoints import make_llama


def executor(folder: Path, **knobs: Any) -> LocalExecutor:
    return LocalExecutor(EngineConfig(model=str(folder), **{"kv_cache_memory": "1MiB", **knobs}))


def first_token(folder: Path, **knobs: Any) -> int:
    """What greedy sampling makes of a short prompt."""
    new = NewRow(0, 0, [5, 17, 3, 80, 41], SamplingParams(temperature=0), seed=0, stop_token_ids=[])
    plan = Plan(
        added=[new], tables=[TableEdit(0, [2])], rows=[0], starts=[0], num_new=[5], sampled_rows=[0], logits_from=[0]
    )
    return executor(folder, **knobs).submit(plan).result().token_ids[0][0]


def test_without_the_extension_one_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_llama(tmp_path)
    monkeypatch.setitem(sys.modules, "octavo.kernels._cpu", None)
    with caplog.at_level(logging.WARNING):
        assert executor(folder).kernel_choice.kernels.name == "reference"
    told = [record.getMessage() for record in caplog.records if "kernels" in record.getMessage().lower()]
    assert len(told) == 1
    assert "'cpu' could not be built or loaded" in told[0]


def test_a_reference_that_was_asked_for_is_nothing_to_warn_of_and_one_that_a_dtype_asks_for_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_llama(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert executor(folder, kernels="reference").kernel_choice.kernels.name == "reference"
        assert "kernels" not in caplog.text.lower()
        assert executor(folder, dtype="float64").kernel_choice.kernels.name == "reference"
    assert "have no float64. This is many times slower" in caplog.text


def test_kernels_that_cannot_serve_the_dtype_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="float64"):
        executor(folder, kernels="cpu", dtype="float64")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"kv_cache_memory": "1KiB"}, "--kv-cache-memory 1KiB is less than one KV block"),
        ({"kv_cache_memory": "9MiB"}, "--kv-cache-memory 9MiB makes a cache of .* 4 MiB are free: lower it"),
        ({"kv_allocation": "contiguous-max", "kv_cache_memory": "8KiB"}, "--kv-allocation contiguous-max reserves"),
        ({"preemption_mode": "swap", "swap_space": "1KiB"}, "--swap-space 1KiB is less than one KV block"),
    ],
)
def test_memory_for_the_cache_that_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr("octavo.execution.local.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setattr("octavo.execution.model_memory.free_memory_bytes", lambda: 4 << 20)
    with pytest.raises(ConfigError, match=words):
        executor(make_llama(tmp_path), **knobs)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"quantization": "int8"},
        {"kv_cache_dtype": "int8"},
        {"kv_cache_dtype": "fp8"},
        {"quantization": "int8", "dtype": "bfloat16"},
    ],
)
def test_every_kind_of_weights_and_cache_finds_the_likeliest_token(
    tmp_path: Path, kernels: str, knobs: dict[str, str]
) -> None:
    folder = make_llama(tmp_path)
    assert first_token(folder, kernels=kernels, **knobs) == first_token(folder, kernels="reference", dtype="float64")


def test_an_int8_cache_has_more_blocks_for_its_memory(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    wide, narrow = (
        executor(folder, kv_cache_dtype=name, max_num_seqs=1024, max_num_batched_tokens=1024).capacity
        for name in ("float32", "int8")
    )
    assert narrow.block_bytes * (8 * 4) == wide.block_bytes * (8 + 4)
    assert narrow.num_blocks > 2 * wide.num_blocks


def test_memory_is_given_back_once_the_steps_in_flight_are_over(tmp_path: Path) -> None:
    queue = LateQueue()
    config = EngineConfig(model=str(make_llama(tmp_path)), kv_cache_memory="1MiB", steps_in_flight=2)
    running = LocalExecutor(config, queue=queue)
    row = NewRow(0, 0, [1, 2, 3], SamplingParams(temperature=0), 0, [])
    step = running.submit(
        Plan(
            added=[row],
            tables=[TableEdit(0, [0])],
            rows=[0],
            starts=[0],
            num_new=[3],
            sampled_rows=[0],
            logits_from=[0],
        )
    )
    assert not step.is_over()
    running.close()
    assert step.is_over()
