"""Others on the same work: transformers' static batches, and vLLM and SGLang where they are installed."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gpu_parts.bench import Bench
from octavo.evaluation.workloads import Work, draw_workload, renewed

STATIC_BATCH = 32
"""Requests that transformers runs together."""
PADDING = 0
"""A token that no prompt has."""


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Output tokens a second on LLaMA-3-8B's shape and the requests of the throughput part."""
    bench.free()
    config = bench.sizes.llama_3_8b
    drawn = draw_workload("sharegpt", bench.sizes.num_requests, bench.sizes.length_scale, 0)
    work = renewed(drawn, 0, config["vocab_size"])
    peers: dict[str, Callable[[Bench, list[Work]], dict[str, Any]]] = {
        "vllm": _vllm, "sglang": _sglang, "transformers": _transformers,
    }  # fmt: skip
    for name, measure in peers.items():
        if find_spec(name) is None:
            yield name, "is not installed here: nothing was compared with it"
            continue
        try:
            yield name, measure(bench, work)
        except Exception as error:  # whatever goes wrong in there is told, and the others have their turn
            yield name, f"{type(error).__name__}: {error}"[:300]


def _transformers(bench: Bench, work: list[Work]) -> dict[str, Any]:
    """Static batches, padded to the longest prompt, that end with the longest output; KV in contiguous tensors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {
        name: value for name, value in bench.sizes.llama_3_8b.items() if name not in ("architectures", "torch_dtype")
    }
    torch.set_default_dtype(bench.sizes.dtype)
    try:
        with torch.device(bench.device):
            model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    size = 2 if bench.is_toy else STATIC_BATCH
    window_s = min(bench.sizes.window_s, bench.left_s - 5)
    num_output, start_s = 0, time.perf_counter()
    for first in range(0, len(work), size):
        batch = work[first : first + size]
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(each.ids) for each in batch], batch_first=True, padding_value=PADDING, padding_side="left"
        ).to(bench.device)
        left_s = window_s - (time.perf_counter() - start_s)
        if left_s <= 0:
            break
        num_new = max(each.out for each in batch)
        generated = model.generate(
            ids,
            attention_mask=(ids != PADDING).long(),
            max_new_tokens=num_new,
            min_new_tokens=num_new,
            do_sample=False,
            pad_token_id=PADDING,
            max_time=left_s,
        )
        num_output += sum(min(each.out, generated.shape[1] - ids.shape[1]) for each in batch)
    seconds = time.perf_counter() - start_s
    return {"output_tok_s": num_output / seconds, "batch": size, "seconds": seconds}


def _vllm(bench: Bench, work: list[Work]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    with _folder(bench) as folder:
        llm = LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, gpu_memory_utilization=0.85)
        params = [
            SamplingParams(temperature=0, max_tokens=each.out, ignore_eos=True, detokenize=False) for each in work
        ]
        start_s = time.perf_counter()
        llm.generate([{"prompt_token_ids": each.ids} for each in work], params, use_tqdm=False)
        return _rate(work, time.perf_counter() - start_s)


def _sglang(bench: Bench, work: list[Work]) -> dict[str, Any]:
    import sglang

    with _folder(bench) as folder:
        engine = sglang.Engine(model_path=folder, load_format="dummy", skip_tokenizer_init=True)
        params = [{"temperature": 0, "max_new_tokens": each.out, "ignore_eos": True} for each in work]
        start_s = time.perf_counter()
        engine.generate(input_ids=[each.ids for each in work], sampling_params=params)
        seconds = time.perf_counter() - start_s
        engine.shutdown()
        return _rate(work, seconds)


def _folder(bench: Bench) -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / "config.json").write_text(json.dumps(bench.sizes.llama_3_8b | {"model_type": "llama"}))
    return folder


def _rate(work: list[Work], seconds: float) -> dict[str, Any]:
    return {"output_tok_s": sum(each.out for each in work) / seconds, "requests": len(work), "seconds": seconds}
