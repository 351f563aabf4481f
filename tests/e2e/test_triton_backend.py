"""The engine on the Triton backend, in Triton's interpreter: its tokens are the reference's, whatever happens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import pytest
import torch

pytest.importorskip("triton")

from kernels.triton.gpu_arithmetic import arithmetic_as_on_a_gpu
from late_queue import LateQueue
from octavo import BeamSearchParams, SamplingParams
from octavo.config import EngineConfig, PreemptionMode
from octavo.engine.engine import Engine
from octavo.errors import ConfigError
from octavo.execution import local, shared_blocks
from octavo.execution.local import LocalExecutor
from octavo.kernels.attention import ForwardContext
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.reference import EagerForward, ReferenceKernels
from octavo.kernels.triton import attention, graphs
from octavo.layer_groups import one_group
from octavo.memory.ledger import Totals
from octavo.scheduling.messages import EngineRequest
from tiny_checkpoints import make_checkpoint

BLOCK_SIZE, VOCAB_SIZE = 4, 97
COMMON: dict[str, Any] = {"dtype": "float32", "block_size": BLOCK_SIZE, "max_num_batched_tokens": 16, "max_num_seqs": 8}


def work() -> list[EngineRequest]:
    """Greedy, drawn, n = 2 and beams, edited or not, of which two begin alike."""
    kinds = [
        SamplingParams(temperature=0, max_tokens=10, ignore_eos=True, logprobs=2, repetition_penalty=1.2),
        SamplingParams(temperature=0.9, top_p=0.9, min_p=0.01, max_tokens=9, seed=7, ignore_eos=True),
        SamplingParams(
            n=2,
            temperature=1.2,
            top_k=30,
            frequency_penalty=0.3,
            presence_penalty=0.2,
            logit_bias={5: 2.0, 90: -4.0},
            max_tokens=8,
            seed=11,
            ignore_eos=True,
        ),
        BeamSearchParams(beam_width=2, max_tokens=7).sampling_params(),
    ]
    return [
        EngineRequest(
            str(number), [(7 * (number // 2) + 5 * place) % VOCAB_SIZE for place in range(9 + 6 * number)], kind, 0.0, 1
        )
        for number, kind in enumerate(kinds)
    ]


class Rerun:
    """Stands in for a CUDA graph: a replay does the work again, on what lies at the same places by now. As all share
    one pool, it may write over what the others gave."""

    num_replays = 0
    alive: ClassVar["WeakSet[Rerun]"] = WeakSet()

    def __init__(self, run: Callable[[], torch.Tensor], pool: tuple[int, int] | None) -> None:
        self._pool = pool or (0, id(self))
        self._run = run
        self.result = run()
        Rerun.alive.add(self)

    def replay(self) -> None:
        Rerun.num_replays += 1
        for other in Rerun.alive:
            other.result.fill_(torch.nan)
        self.result.copy_(self._run())

    def pool(self) -> tuple[int, int]:
        return self._pool


def capture(run: Callable[[], torch.Tensor], pool: tuple[int, int] | None) -> tuple[Rerun, torch.Tensor]:
    assert pool is None or any(graph.pool() == pool for graph in Rerun.alive), "the pool has gone with its last graph"
    graph = Rerun(run, pool)
    return graph, graph.result


class PlainModel:
    """Its states are sums of what stands in the batch."""

    has_head = True

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        tables = context.batch.block_tables[0, context.batch.tables, :1]
        return (context.batch.token_ids.unsqueeze(1) + tables).float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cuda` is the CPU, whose queue tells everything late and whose graphs are run again."""
    monkeypatch.setattr(local, "resolve_device", lambda *_: torch.device("cpu"))
    monkeypatch.setattr(local, "queue_of", lambda device: LateQueue())
    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(Rerun, "num_replays", 0)
    monkeypatch.setattr(Rerun, "alive", WeakSet())


def run(
    folder: Path,
    kernels: str,
    mode: PreemptionMode,
    num_blocks: int,
    count: int = 4,
    requests: Sequence[EngineRequest] | None = None,
    **knobs: Any,
) -> tuple[dict[str, list[list[int]]], Totals]:
    """What these requests get, or the first of the work, and what has happened in memory."""
    config = EngineConfig(
        model=str(folder),
        kernels=kernels,  # type: ignore[arg-type]
        kv_cache_memory=num_blocks * block_bytes(folder, knobs.get("kv_cache_dtype", "auto")),
        swap_space="1MiB",
        preemption_mode=mode,
        **COMMON | knobs,
    )
    executor = LocalExecutor(config)
    engine = Engine.configured(executor, config)
    for request in requests or work()[:count]:
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


def block_bytes(folder: Path, cache_dtype: str = "auto") -> int:
    knobs: dict[str, Any] = COMMON | {"kv_cache_dtype": cache_dtype}
    probe = LocalExecutor(EngineConfig(model=str(folder), kv_cache_memory="1MiB", kernels="reference", **knobs))
    size = probe.capacity.block_bytes
    probe.close()
    return size


@pytest.mark.parametrize(
    ("architecture", "num_blocks", "mode"), [("LlamaForCausalLM", 20, "swap"), ("Gemma3ForCausalLM", 32, "recompute")]
)
def test_the_tokens_are_those_of_the_reference(
    tmp_path: Path,
    one_thread: None,
    pretended_gpu: None,
    architecture: str,
    num_blocks: int,
    mode: PreemptionMode,
) -> None:
    """Gemma's layers have windows, norms of heads and softcaps. Steps are in flight, and decode steps are replayed."""
    folder = make_checkpoint(tmp_path, architecture)
    expected, _ = run(folder, "reference", mode, 200, device="cpu", steps_in_flight=1)
    got, totals = run(folder, "triton", mode, num_blocks, device="cuda")
    assert got == expected
    assert totals.num_preemptions > 0
    assert (totals.num_swaps > 0) == (mode == "swap")
    assert totals.num_hit_tokens > 0
    assert Rerun.num_replays > 5


def test_without_graphs_and_with_one_step_in_flight_the_tokens_are_the_same(
    tmp_path: Path, one_thread: None, pretended_gpu: None
) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", num_hidden_layers=1)
    off: dict[str, Any] = {"cuda_graphs": "off", "steps_in_flight": 1}
    expected, _ = run(folder, "reference", "recompute", 200, count=2, **off)
    got, _ = run(folder, "triton", "recompute", 200, count=2, device="cuda", **off)
    assert got == expected
    assert Rerun.num_replays == 0


def test_graphs_are_captured_again_where_the_tables_that_they_read_have_moved(
    pretended_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ReferenceKernels().allocate_cache(
        CacheShape(2, one_group(1), BLOCK_SIZE, 1, 8, torch.float32), torch.device("cpu")
    )
    eager = EagerForward(PlainModel(), cache, lambda batch, cache: None)
    forward = graphs.CapturedForward(eager, 8, padding_slot=0)
    token_ids = torch.zeros(2, dtype=torch.int64)
    for num_tables in (2, 4):
        tables = torch.zeros((1, num_tables, 4), dtype=torch.int64)
        rows = torch.arange(2)
        for token in range(3):
            batch = RaggedBatch(
                token_ids=token_ids.fill_(token),
                positions=rows,
                slots=rows.unsqueeze(0),
                query_starts=torch.arange(3),
                context_lens=rows + 1,
                tables=rows,
                block_tables=tables.fill_(10 * num_tables),
                extent=BatchExtent(2, 1, 1),
            )
            forward.run(batch)
            assert eager.hidden.tolist() == [[token + 10 * num_tables]] * 2
    assert Rerun.num_replays == 4
    assert not caplog.records


def test_a_step_that_cannot_be_captured_is_run(
    tmp_path: Path,
    one_thread: None,
    pretended_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(run: Callable[[], torch.Tensor], pool: object) -> None:
        run()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "capture", refuse)
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", num_hidden_layers=1)
    expected, _ = run(folder, "reference", "recompute", 200, count=1)
    got, _ = run(folder, "triton", "recompute", 200, count=1, device="cuda")
    assert got == expected
    assert sum("--cuda-graphs off" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("architecture", "quantization"),
    [("MixtralForCausalLM", "int8"), ("GPT2LMHeadModel", "none"), ("OPTForCausalLM", "fp8")],
)
def test_other_architectures_and_weights_of_8_bits_get_the_references_tokens(
    tmp_path: Path, one_thread: None, pretended_gpu: None, architecture: str, quantization: str
) -> None:
    folder = make_checkpoint(tmp_path, architecture)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    requests = [EngineRequest(str(count), list(range(count)), params, 0.0, 1) for count in (3, 9)]
    with arithmetic_as_on_a_gpu():
        expected, _ = run(folder, "reference", "recompute", 50, requests=requests, quantization=quantization)
        got, _ = run(folder, "triton", "recompute", 50, requests=requests, quantization=quantization, device="cuda")
    assert got == expected
    assert Rerun.num_replays > 0


@pytest.mark.parametrize("cache_dtype", ["int8", "fp8"])
def test_a_cache_of_8_bits_gives_the_tokens_of_the_reference(
    tmp_path: Path, one_thread: None, pretended_gpu: None, cache_dtype: str
) -> None:
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", num_hidden_layers=1)
    knobs: dict[str, Any] = {"count": 2, "kv_cache_dtype": cache_dtype}
    with arithmetic_as_on_a_gpu():
        expected, _ = run(folder, "reference", "recompute", 50, **knobs)
        got, _ = run(folder, "triton", "recompute", 50, device="cuda", **knobs)
    assert got == expected
    assert Rerun.num_replays > 0


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


def test_rows_that_share_a_prompt_are_told_to_read_it_once_and_get_the_tokens_of_the_reference(
    tmp_path: Path, one_thread: None, pretended_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of one prompt and beams of another that begins alike. Chunks are small here, to be many."""
    monkeypatch.setattr(attention, "LEAST_SHARED", 1)
    monkeypatch.setattr(attention, "CHUNK", 16)
    monkeypatch.setattr(attention, "few_rows_tiling", lambda *_: attention.Tiling(16, 16, 4, 3))
    monkeypatch.setattr(shared_blocks, "CONTEXT_CHUNK", 16)
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", num_hidden_layers=1)
    kinds = [
        SamplingParams(n=2, temperature=1.1, seed=3, max_tokens=4, ignore_eos=True),
        BeamSearchParams(beam_width=2, max_tokens=3).sampling_params(),
    ]
    requests = [EngineRequest(str(number), [*range(2, 40), number], kind, 0.0, 1) for number, kind in enumerate(kinds)]
    knobs: dict[str, Any] = {"requests": requests, "max_num_batched_tokens": 32, "max_num_seqs": 4}
    knobs["steps_in_flight"] = 1  # so the second request finds what the first has computed
    expected, _ = run(folder, "reference", "recompute", 100, **knobs)
    num_sharing = []
    attend = attention._Launch._attend

    def note(*arguments: Any, shared: torch.Tensor | None = None, **more: Any) -> None:
        num_sharing.append(0 if shared is None else int((shared > 0).sum()))
        attend(*arguments, shared=shared, **more)

    monkeypatch.setattr(attention._Launch, "_attend", note)
    got, totals = run(folder, "triton", "recompute", 100, device="cuda", **knobs)
    assert got == expected
    assert totals.num_hit_tokens >= 32
    assert max(num_sharing) == 3
    assert Rerun.num_replays > 0
