#!/usr/bin/env python3
"""What fewer bits cost in quality: perplexity over English questions and Python's own documentation.

    python benchmarks/perplexity.py ../shared/data/mt_bench_questions.jsonl
    python benchmarks/perplexity.py ../shared/data/mt_bench_questions.jsonl --model file.gguf --only float32 auto

The texts are MT-bench's turns, and the first 20,000 bytes of the docstrings of argparse, asyncio, json and logging, cut
into windows of 512 tokens; each configuration scores the same windows.
"""

import argparse
import inspect
import json
import math
import sys
from pathlib import Path
from types import ModuleType

WINDOW = 512
DOCSTRING_BYTES = 20_000
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32", "quantization": "none"},
    "bfloat16": {"dtype": "bfloat16", "quantization": "none"},
    "auto": {"dtype": "float32", "quantization": "auto"},
    "int4": {"dtype": "float32", "quantization": "int4"},
    "int8": {"dtype": "float32", "quantization": "int8"},
    "fp8": {"dtype": "float32", "quantization": "fp8"},
    "int8, int8 KV": {"dtype": "float32", "quantization": "int8", "kv_cache_dtype": "int8"},
}


def docstrings(module: ModuleType) -> list[str]:
    """The module's, and those of what it defines, classes with their methods, in the order of their names."""
    found = [inspect.getdoc(module) or ""]
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not (value.__module__ or "").startswith(module.__name__):
            continue
        found.append(inspect.getdoc(value) or "")
        if inspect.isclass(value):
            methods = sorted(vars(value).items())
            found += [inspect.getdoc(method) or "" for key, method in methods if inspect.isfunction(method)]
    return [text for text in found if text]


def texts(questions: Path) -> list[str]:
    import argparse
    import asyncio
    import json as json_module
    import logging

    lines = questions.read_text().splitlines()
    turns = "\n\n".join(turn for line in lines for turn in json.loads(line)["turns"])
    documentation = "\n\n".join(
        text for module in (argparse, asyncio, json_module, logging) for text in docstrings(module)
    )
    return [turns, documentation.encode()[:DOCSTRING_BYTES].decode(errors="ignore")]


def perplexity(windows: list[list[int]], model: str, knobs: dict[str, str]) -> float:
    from octavo import LLM, SamplingParams

    with LLM(model, **knobs) as llm:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = llm.generate(windows, params)
    scores = [
        entry[token].logprob
        for window, output in zip(windows, outputs, strict=True)
        for token, entry in zip(window, output.prompt_logprobs or [], strict=True)
        if entry is not None
    ]
    return math.exp(-sum(scores) / len(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="MT-bench's questions, one JSON object a line")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--windows", type=int, help="so many of them, spread over all; by default all")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS), help="in this order")
    arguments = parser.parse_args()
    from octavo.config import EngineConfig
    from octavo.tokenization.loading import load_tokenizer

    tokenizer = load_tokenizer(EngineConfig(model=arguments.model))
    ids = [token for text in texts(arguments.questions) for token in tokenizer.encode(text)]
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
    if arguments.windows:
        windows = windows[:: max(1, len(windows) // arguments.windows)][: arguments.windows]
    print(f"{len(windows)} windows of {WINDOW} tokens", file=sys.stderr)
    reference = None
    for name in arguments.only:
        value = perplexity(windows, arguments.model, CONFIGURATIONS[name])
        reference = reference or value
        print(f"{name:14} {value:9.4f}  {100 * (value / reference - 1):+6.2f} %", flush=True)


if __name__ == "__main__":
    main()
