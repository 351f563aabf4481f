"""The engine on the Triton backend, in Triton's interpreter: its tokens are the reference's, whatever happens."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from octavo import BeamSearchParams, SamplingParams
from octavo.config import EngineConfig, PreemptionMode
from octavo.engine.engine import Engine
from octavo.errors import ConfigError
from octavo.execution.local import LocalExecutor
from octavo.memory.ledger import Totals
from octavo.scheduling.messages import EngineRequest
from tiny_checkpoints import make_checkpoint

BLOCK_SIZE, VOCAB_SIZE = 4, 97
COMMON: dict[str, Any] = {"dtype": "float32", "block_size": BLOCK_SIZE, "max_num_batched_tokens": 16, "max_num_seqs": 8}


def work() -> list[EngineRequest]:
    """Greedy, drawn, n = 2 and beams, of which two begin alike."""
    kinds = [
        SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, logprobs=2),
        SamplingParams(temperature=0.9, top_p=0.9, max_tokens=9, seed=7, ignore_eos=True),
        SamplingParams(n=2, temperature=1.2, top_k=30, max_tokens=8, seed=11, ignore_eos=True),
        BeamSearchParams(beam_width=2, max_tokens=7).sampling_params(),
    ]
    return [
        EngineRequest(
            str(number), [(7 * (number // 2) + 5 * place) % VOCAB_SIZE for place in range(9 + 6 * number)], kind, 0.0, 1
        )
        for number, kind in enumerate(kinds)
    ]


def run(
    folder: Path,
    kernels: str,
    mode: PreemptionMode,
    num_blocks: int,
    cache_dtype: str = "auto",
    requests: list[EngineRequest] | None = None,
) -> tuple[dict[str, list[list[int]]], Totals]:
    """What some requests get, all of the work by default, and what has happened in memory."""
    knobs: dict[str, Any] = COMMON | {"kv_cache_dtype": cache_dtype}
    config = EngineConfig(
        model=str(folder),
        kernels=kernels,  # type: ignore[arg-type]
        kv_cache_memory=num_blocks * block_bytes(folder, knobs),
        swap_space="1MiB",
        preemption_mode=mode,
        **knobs,
    )
    executor = LocalExecutor(config)
    engine = Engine.configured(executor, config)
    for request in requests or work():
        engine.add(request)
    got: dict[str, dict[int, list[int]]] = {}
    while engine.has_unfinished:
        for update in engine.step():
            assert update.error is None
            for sequence in update.sequences:
                got.setdefault(update.request_id, {}).setdefault(sequence.index, []).extend(sequence.token_ids)
    totals = engine.ledger().totals
    executor.close()
    return {name: [tokens for _, tokens in sorted(own.items())] for name, own in got.items()}, totals


def block_bytes(folder: Path, knobs: dict[str, Any]) -> int:
    probe = LocalExecutor(EngineConfig(model=str(folder), kv_cache_memory="1MiB", kernels="reference", **knobs))
    size = probe.capacity.block_bytes
    probe.close()
    return size


@pytest.mark.parametrize(("architecture", "num_blocks"), [("LlamaForCausalLM", 20), ("Gemma3ForCausalLM", 32)])
@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_the_tokens_are_those_of_the_reference(
    tmp_path: Path, one_thread: None, architecture: str, num_blocks: int, mode: PreemptionMode
) -> None:
    """Gemma's layers have windows, norms of heads and softcaps."""
    folder = make_checkpoint(tmp_path, architecture)
    expected, _ = run(folder, "reference", mode, 200)
    got, totals = run(folder, "triton", mode, num_blocks)
    assert got == expected
    assert totals.num_preemptions > 0
    assert (totals.num_swaps > 0) == (mode == "swap")
    assert totals.num_hit_tokens > 0


@pytest.mark.parametrize("cache_dtype", ["int8", "fp8"])
def test_a_cache_of_8_bits_gives_the_tokens_of_the_reference(
    tmp_path: Path, one_thread: None, cache_dtype: str
) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM")
    expected, got = (
        run(folder, kernels, "recompute", 20, cache_dtype, work()[:2])[0] for kernels in ("reference", "triton")
    )
    assert got == expected


def test_what_it_has_no_kernels_for_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM")
    with pytest.raises(ConfigError, match="no float64"):
        LocalExecutor(EngineConfig(model=str(folder), kernels="triton", **COMMON | {"dtype": "float64"}))


def test_a_gpu_that_is_not_there_is_told_with_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device cuda, and torch finds no GPU.*--device cpu"):
        LocalExecutor(EngineConfig(model=str(folder), device="cuda"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="'triton' are for CUDA GPUs"):
        LocalExecutor(EngineConfig(model=str(folder), kernels="triton"))
