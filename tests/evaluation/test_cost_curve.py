"""The cost curve's decoding, on a tiny model: what it computes, and the limit it is held against."""

import copy
from pathlib import Path
from typing import Any

import pytest

from octavo.config import EngineConfig
from octavo.evaluation import cost_curve
from octavo.evaluation.cost_curve import CurveBench
from octavo.execution.step_buffers import StagedBatch
from octavo.kernels.batch import RaggedBatch
from tiny_checkpoints import make_llama

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_llama(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def bench(folder: str) -> CurveBench:
    """With 20 blocks of 16 tokens: two layers of 2 KV heads of 8 dimensions in float32."""
    return CurveBench(EngineConfig(model=folder, kv_cache_memory=20 * 16 * 2 * 2 * 2 * 8 * 4), STEPS)


def batches_of(bench: CurveBench, monkeypatch: pytest.MonkeyPatch) -> list[RaggedBatch]:
    """The batches that the model is run on from now on."""
    seen: list[RaggedBatch] = []
    runner = bench.executor.runner
    stage = runner.stage

    def kept(plan: Any) -> StagedBatch:
        staged = stage(plan)
        seen.append(copy.deepcopy(staged.batch))
        return staged

    monkeypatch.setattr(runner, "stage", kept)
    return seen


def test_all_sequences_decode_together_and_end_at_the_context(
    bench: CurveBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = batches_of(bench, monkeypatch)
    assert len(bench.decode(4, 50)) == STEPS
    assert len(seen) == STEPS + cost_curve.WARM_UP_STEPS  # no prompt is computed
    for batch in seen:
        assert len(batch.token_ids) == 4
        num_blocks = -(-int(batch.context_lens.max()) // 16)
        tables = batch.block_tables[:, batch.tables, :num_blocks].flatten().tolist()
        assert len(set(tables)) == len(tables)
    assert seen[-1].context_lens.tolist() == [50] * 4
    assert seen[-STEPS].context_lens.tolist() == [51 - STEPS] * 4


def test_what_fits_does_decode_and_one_more_does_not_fit(bench: CurveBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 tokens and the next one fill a block; one block for every two sequences is kept free."""
    most = max(batch for batch in range(1, 30) if bench.fits(batch, 15))
    assert most == 13
    seen = batches_of(bench, monkeypatch)
    bench.decode(most, 15)
    assert {len(batch.token_ids) for batch in seen} == {most}


def test_contexts_leave_room_for_the_steps_and_the_models_length(bench: CurveBench) -> None:
    assert [bench.fits(1, context) for context in (6, 7, 127, 128)] == [False, True, True, False]


@pytest.mark.parametrize(("quantization", "tied"), [("none", False), ("none", True), ("int8", False)])
def test_a_step_reads_its_products_weights_its_kv_and_its_logits(tmp_path: Path, quantization: Any, tied: bool) -> None:
    model = str(make_llama(tmp_path, tie_word_embeddings=tied))
    config = EngineConfig(model=model, quantization=quantization, kv_cache_memory="1MiB", kv_cache_dtype="int8")
    cost = CurveBench(config, STEPS).cost
    products = 2 * (64 * 32 + 32 * 32 + 112 * 32 + 32 * 56) + 97 * 32
    norms = 5 * 32
    outputs = 2 * (64 + 32 + 112 + 32) + 97
    assert cost.num_weights == products + norms
    in_int8 = products + 4 * outputs + 4 * norms
    assert cost.weight_bytes == (in_int8 if quantization == "int8" else 4 * cost.num_weights)
    kv_bytes = 2 * 2 * 2 * (8 + 4)
    assert cost.bytes_of(3, 10) == cost.weight_bytes + 3 * (10 * kv_bytes + 97 * 4)
    attention, multiplying = 4 * 2 * 4 * 8 * 10 * 3, 2 * 3 * cost.num_weights
    expected = (
        {"float32": attention, "int8": multiplying} if quantization == "int8" else {"float32": attention + multiplying}
    )
    assert cost.operations_of(3, 10) == expected
