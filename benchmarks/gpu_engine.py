"""A whole engine on a CUDA GPU, with dummy weights: a part of `gpu.py`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.evaluation.step_times import measure
from octavo.execution.local import LocalExecutor

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 128001,
    "bos_token_id": 128000,
}
CONTEXT, NUM_STEPS = 2048, 20


def engine_figures(device: str, copy_rate: float, shape: dict[str, Any] = LLAMA_3_8B) -> Iterator[tuple[str, Any]]:
    """How long the model takes to load and a step of decode to run, beside the time in which its bytes could be read.

    Args:
        device: as `--device` takes it.
        copy_rate: bytes a second that the device's memory gives.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape))
        config = EngineConfig(
            model=folder, load_format="dummy", device=device, kv_cache_memory="80%", preemption_mode="recompute"
        )
        start_s = time.perf_counter()
        executor = LocalExecutor(config)
        yield "load", {"s": time.perf_counter() - start_s, "kernels": executor.loaded.kernels}
    engine, capacity = Engine.configured(executor, config), executor.capacity
    block_bytes, weight_bytes = capacity.block_bytes, executor.loaded.weight_bytes
    context = min(CONTEXT, capacity.max_model_len // 2)
    for num_rows in (1, 8, 64, 256):
        if num_rows * (context + 2 * NUM_STEPS) > capacity.num_blocks * capacity.block_size:
            break
        start_s = time.perf_counter()
        times = measure(engine, num_rows, context, NUM_STEPS)
        num_bytes = weight_bytes + num_rows * context * block_bytes // capacity.block_size
        least_ms = 1e3 * num_bytes / copy_rate
        yield (
            f"decode {num_rows} x {context}",
            {
                "ms": times.total_ms,
                "share": least_ms / times.total_ms,
                "parts_ms": times.parts_ms,
                "with_prefill_s": time.perf_counter() - start_s,
            },
        )
    executor.close()
