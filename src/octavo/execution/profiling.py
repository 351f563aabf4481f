"""What a model's steps take of a device's memory, found out by running the largest ones before the KV cache is made.

The runner and the cache of these steps are of their own and are dropped afterwards, so nothing of them is left: no
rows, no states, no random numbers, nothing that could be found as a prefix.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.budgets import MIB, DeviceUse
from octavo.execution.model_runner import ModelRunner, RunnerLimits
from octavo.execution.plan import ForkedRow, NewRow, Plan, TableEdit
from octavo.kernels.cache import CacheShape
from octavo.sampling_params import ALL_TOKENS, SamplingParams

MOST_PROFILED_LOGPROBS = 20
"""A request for the logprobs of a whole vocabulary (`--max-logprobs -1`) takes its memory from what the share leaves
outside."""


class MemoryMeter(Protocol):
    """A device's memory, as it is for all processes together."""

    def total_bytes(self) -> int: ...

    def free_bytes(self) -> int:
        """What is taken by nobody, once this process has given back what it holds unused."""
        ...

    def start(self) -> None:
        """Begin to watch for the moment when the least is free."""
        ...

    def least_free_bytes(self) -> int:
        """Wait for the device; the least that was free since `start`."""
        ...


class CudaMeter:
    """A GPU's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def total_bytes(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[1])

    def free_bytes(self) -> int:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def start(self) -> None:
        self.free_bytes()
        torch.cuda.reset_peak_memory_stats(self._device)

    def least_free_bytes(self) -> int:
        torch.cuda.synchronize(self._device)
        # What torch has given back since its peak is free now; all else that was taken meanwhile stays taken.
        given_back = torch.cuda.max_memory_reserved(self._device) - torch.cuda.memory_reserved(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) - given_back


def use_before_loading(meter: MemoryMeter) -> DeviceUse:
    """What is taken of a device by others."""
    total = meter.total_bytes()
    return DeviceUse(total=total, others=total - meter.free_bytes())


def measure_step(meter: MemoryMeter, run: Callable[[], None], config: EngineConfig, use: DeviceUse) -> DeviceUse:
    """What is taken of a device beside the weights while `run` runs the largest steps.

    Args:
        use: with the weights loaded.

    Raises:
        ConfigError: the memory is too small for them.
    """
    loaded = meter.free_bytes()
    meter.start()
    try:
        run()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a step of {config.max_num_batched_tokens} tokens and {config.max_num_seqs} sequences does not fit into "
            f"the {loaded / MIB:,.0f} MiB that the weights leave ({use}): lower --max-num-batched-tokens, "
            "--max-num-seqs or --max-model-len"
        ) from error
    return replace(use, step=max(0, loaded - meter.least_free_bytes()))


def run_largest_steps(runner: ModelRunner, limits: RunnerLimits, max_logprobs: int) -> None:
    """Run the steps of `largest_steps` in a runner that is dropped afterwards. One block of cache is enough: all rows
    write to the same, so what is computed means nothing."""
    for plan in largest_steps(limits, runner.cache.shape, max_logprobs):
        runner.collect(runner.launch(plan))


def largest_steps(limits: RunnerLimits, record: CacheShape, max_logprobs: int) -> list[Plan]:
    """A prefill of as many tokens as a step may have beside as many decoding rows, all with contexts of full length,
    its prompt scored, and every row sampled in the dearest way; and then a decode of all rows."""
    # Each row gets a token in each of the two steps.
    context = limits.max_model_len - 2
    if context < 1:
        return []
    num_rows = min(limits.max_num_rows, limits.max_num_tokens)
    rows, num_new = list(range(num_rows)), _shared_out(limits.max_num_tokens, num_rows, context)
    blocks = [0] * -(-limits.max_model_len // record.block_size)
    first = NewRow(0, 0, [0] * context, _dearest(max_logprobs), seed=0, stop_token_ids=[])
    prefill = Plan(
        added=[first],
        forked=[ForkedRow(row, 0, row) for row in rows[1:]],
        tables=[
            TableEdit(0, blocks * record.num_groups),
            *(TableEdit(row, [], parent=0, num_shared=len(blocks)) for row in rows[1:]),
        ],
        rows=rows,
        starts=[context - num for num in num_new],
        num_new=num_new,
        sampled_rows=rows,
        logits_from=rows,
        scored=[0] if num_new[0] > 1 else [],
    )
    decode = Plan(rows=rows, starts=[context] * num_rows, num_new=[1] * num_rows, sampled_rows=rows, logits_from=rows)
    return [prefill, decode]


def _shared_out(num_tokens: int, num_rows: int, most: int) -> list[int]:
    """A step's tokens: the first rows take as many as they can, every other one takes one."""
    left, counts = num_tokens - num_rows, []
    for _ in range(num_rows):
        more = min(left, most - 1)
        counts.append(1 + more)
        left -= more
    return counts


def _dearest(max_logprobs: int) -> SamplingParams:
    """Everything that takes memory of the size of the logits."""
    num_logprobs = MOST_PROFILED_LOGPROBS if max_logprobs == ALL_TOKENS else max_logprobs
    return SamplingParams(
        temperature=1.0,
        top_p=0.95,
        min_p=0.01,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logit_bias={0: 1.0},
        logprobs=num_logprobs,
        prompt_logprobs=num_logprobs,
    )
