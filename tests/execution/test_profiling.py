"""What the largest steps take is found out by running them, the KV cache gets the rest, and nothing of them is left."""

import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from late_queue import LateQueue
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution import local
from octavo.execution.budgets import MIB, DeviceUse, device_budget
from octavo.execution.estimates import ATTENTION_PARTS_BYTES, LIBRARY_BYTES, step_bytes
from octavo.execution.local import LocalExecutor
from octavo.execution.model_memory import DeviceMemory
from octavo.execution.model_runner import RunnerLimits
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.execution.profiling import largest_steps, measure_step
from octavo.execution.sizing import size_cache
from octavo.kernels.cache import CacheShape
from octavo.layer_groups import one_group
from octavo.layers.parallel import TensorParallel
from octavo.sampling_params import SamplingParams
from tiny_checkpoints import TINY_LLAMA, make_checkpoint, make_llama

TOTAL = 32 * MIB
GROUPS = one_group(2)
BLOCK_BYTES = 2 * 2 * 16 * 2 * 8 * 4
"""Keys and values of 2 layers, 16 tokens and 2 heads of 8 float32."""


class TensorMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures this process as if it were a device: of a memory of `TOTAL` bytes are taken what the tensors made since
    this is entered take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.taken = self.most_taken = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        results = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    self._take(storage.nbytes())
                    weakref.finalize(storage, self._take, -storage.nbytes())
        return results

    def _take(self, num_bytes: int) -> None:
        self.taken += num_bytes
        self.most_taken = max(self.most_taken, self.taken)

    def total_bytes(self) -> int:
        return TOTAL

    def free_bytes(self) -> int:
        return TOTAL - self.taken

    def start(self) -> None:
        self.most_taken = self.taken

    def least_free_bytes(self) -> int:
        return TOTAL - self.most_taken


def executor(folder: Path, monkeypatch: pytest.MonkeyPatch, **knobs: Any) -> tuple[LocalExecutor, DeviceMemory]:
    """One that sizes its cache as on a GPU; and what it has found out."""
    knobs = {"kernels": "reference", "max_num_batched_tokens": 16, "max_num_seqs": 8, **knobs}
    config = EngineConfig(model=str(folder), device="cpu", **knobs)
    with TensorMeter() as meter:
        memory = DeviceMemory(config, TensorParallel(), meter)
        monkeypatch.setattr(local, "memory_for", lambda *_: memory)
        return LocalExecutor(config), memory


def tokens(executor: LocalExecutor) -> list[list[int]]:
    """What a prompt gives in two steps, drawn."""
    new = NewRow(0, 0, [5, 17, 3, 80, 41], SamplingParams(temperature=1.3, top_p=0.9), seed=3, stop_token_ids=[])
    tables = [TableEdit(0, list(range(len(executor.capacity.layer_groups.groups))))]
    first = Plan(added=[new], tables=tables, rows=[0], starts=[0], num_new=[5], sampled_rows=[0], logits_from=[0])
    then = Plan(rows=[0], starts=[5], num_new=[1], sampled_rows=[0], logits_from=[0])
    return [executor.submit(plan).result().token_ids[0] for plan in (first, then)]


@pytest.mark.parametrize(
    ("kernels", "architecture"), [("reference", "Gemma3ForCausalLM"), ("triton", "LlamaForCausalLM")]
)
def test_a_profile_run_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: Any, architecture: str
) -> None:
    """With Triton's kernels as on a GPU: what the host is told is told late, and a decode is captured."""
    captured: list[torch.Tensor] = []
    if kernels == "triton":
        pytest.importorskip("triton")
        from octavo.kernels.triton import graphs

        def capture(run: Callable[[], torch.Tensor], _: object) -> tuple[Any, torch.Tensor]:
            captured.append(run())
            return SimpleNamespace(pool=lambda: None), captured[-1]

        monkeypatch.setattr(local, "queue_of", lambda _: LateQueue())
        monkeypatch.setattr(graphs, "capture", capture)
    folder = make_checkpoint(tmp_path, architecture)
    knobs: dict[str, Any] = {"kernels": kernels, "dtype": "float32", "max_num_batched_tokens": 8, "max_num_seqs": 3}
    knobs["max_model_len"] = 48
    plain = LocalExecutor(EngineConfig(model=str(folder), device="cpu", **knobs))
    profiled, memory = executor(folder, monkeypatch, **knobs)
    assert memory.use.step > 0
    assert kernels == "reference" or len(captured) == 2, "the largest step, to make room, and the step itself"
    assert not profiled.runner.cache.records.any()
    assert not profiled.runner.rows.num_tokens.any()
    assert tokens(profiled) == tokens(plain)


def test_the_cache_gets_what_the_share_leaves_beside_weights_graphs_and_the_largest_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_llama(tmp_path, max_position_embeddings=2**13)
    profiled, memory = executor(folder, monkeypatch, gpu_memory_utilization=0.6)
    use, capacity = memory.use, profiled.capacity
    assert use.weights >= profiled.loaded.weight_bytes
    room = int(0.6 * TOTAL) - use.weights - use.step - use.graphs
    assert capacity.num_blocks == room // capacity.block_bytes
    larger, _ = executor(folder, monkeypatch, gpu_memory_utilization=0.6, max_num_batched_tokens=32)
    assert larger.capacity.num_blocks < capacity.num_blocks
    sized, _ = executor(folder, monkeypatch, kv_cache_memory="1MiB")
    assert sized.capacity.num_blocks == MIB // capacity.block_bytes


@pytest.mark.parametrize(
    ("model", "step"),
    [
        ({"vocab_size": 4000}, {"max_num_batched_tokens": 48, "max_num_seqs": 6}),
        ({"intermediate_size": 600}, {"max_num_batched_tokens": 96, "max_num_seqs": 3}),
    ],
)
def test_what_a_step_takes_is_estimated_within_a_factor_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, int], step: dict[str, int]
) -> None:
    """Of what tensors take: the logits' copies in the one model, the widest layer in the other."""
    pytest.importorskip("triton")
    folder = make_llama(tmp_path, **model)
    profiled, memory = executor(folder, monkeypatch, kernels="triton", dtype="float32", kv_cache_memory="1MiB", **step)
    config = EngineConfig(**step)  # type: ignore[arg-type]
    estimate = step_bytes(config, profiled.model_config, torch.float32, profiled.capacity.max_model_len)
    assert 0.5 < (estimate - LIBRARY_BYTES) / memory.use.step < 2


def test_a_size_that_the_largest_step_leaves_no_room_for_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_llama(tmp_path, max_position_embeddings=2**13)
    with pytest.raises(
        ConfigError, match=r"--kv-cache-memory 63MiB makes .* 16 MiB and only.*a step's work .* lower it"
    ):
        executor(folder, monkeypatch, kv_cache_memory="63MiB", max_num_batched_tokens=96)


def test_the_largest_steps_are_as_large_as_the_limits_allow() -> None:
    limits = RunnerLimits(max_model_len=100, max_num_tokens=300, max_num_rows=6)
    prefill, decode = largest_steps(limits, CacheShape(1, GROUPS, 16, 2, 8, torch.float32), max_logprobs=20)
    assert prefill.num_new == [98, 98, 98, 4, 1, 1]
    assert [start + num for start, num in zip(prefill.starts, prefill.num_new, strict=True)] == [98] * 6
    assert prefill.scored == [0]
    assert prefill.sampled_rows == decode.sampled_rows == list(range(6))
    assert decode.starts == [98] * 6
    short = RunnerLimits(max_model_len=2, max_num_tokens=300, max_num_rows=6)
    assert largest_steps(short, CacheShape(1, GROUPS, 16, 2, 8, torch.float32), max_logprobs=20) == []


def test_steps_that_do_not_fit_are_refused_with_what_makes_them_smaller() -> None:
    def run() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"a step of 2048 tokens and 256 sequences .*weights 3 MiB.*lower --max-"):
        measure_step(TensorMeter(), run, EngineConfig(), DeviceUse(total=TOTAL, others=0, weights=3 * MIB))


def blocks(use: DeviceUse, **knobs: Any) -> int:
    config = EngineConfig(max_num_seqs=2, **knobs)
    room = use.room(config.gpu_memory_utilization)
    return size_cache(config, TINY_LLAMA, GROUPS, torch.float32, 4096, device_budget(config, use, room)).num_blocks


def test_a_share_that_is_too_small_is_refused_with_the_one_that_fits() -> None:
    use = DeviceUse(total=1000 * MIB, others=30 * MIB, weights=200 * MIB, step=90 * MIB, graphs=5 * MIB)
    words = (
        r"--gpu-memory-utilization 0\.2 leaves 0 MiB for the KV cache \(of 1,000 MiB: weights 200 MiB, a step's work "
        r"90 MiB, CUDA graphs 5 MiB, other processes and CUDA 30 MiB\), which is less than one KV block .*: "
        r"raise --gpu-memory-utilization to 0\.3 or lower --block-size"
    )
    with pytest.raises(ConfigError, match=words):
        blocks(use, gpu_memory_utilization=0.2)
    assert blocks(use, gpu_memory_utilization=0.3) > 0


def test_where_no_share_fits_the_step_is_to_be_made_smaller() -> None:
    use = DeviceUse(total=1000 * MIB, others=500 * MIB, weights=400 * MIB, step=101 * MIB)
    with pytest.raises(ConfigError, match="lower --max-num-batched-tokens or --max-num-seqs or lower --block-size"):
        blocks(use)


def test_a_cache_for_less_than_one_sequence_is_warned_of_with_the_share_that_holds_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    use = DeviceUse(total=100 * MIB, others=0, weights=49 * MIB + 3 * BLOCK_BYTES)
    blocks(use, gpu_memory_utilization=0.5)
    assert "raise --gpu-memory-utilization to 0.51 (1 MiB for one sequence of full length)" in caplog.text


def test_ranks_share_out_what_the_fullest_of_their_gpus_leaves() -> None:
    use = DeviceUse(total=1000 * MIB, others=0)
    config = EngineConfig(tensor_parallel_size=2)
    budget = device_budget(config, use, 100 * MIB)
    assert (budget.wanted_bytes, budget.free_bytes) == (200 * MIB, 200 * MIB)
    assert budget.remedy(1200 * MIB) == "raise --gpu-memory-utilization to 0.6"


def test_what_the_estimates_know_of_attention_is_what_the_kernels_do() -> None:
    pytest.importorskip("triton")
    from octavo.kernels.triton import attention

    assert attention.MOST_PARTIAL_BYTES == ATTENTION_PARTS_BYTES
