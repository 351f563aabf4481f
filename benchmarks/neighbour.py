#!/usr/bin/env python3
"""What throughput is kept beside a busy neighbour: another process that computes without end on the same cores.

    python benchmarks/neighbour.py                                   # smollm2 in int8: 1, 16 and 64 requests
    python benchmarks/neighbour.py --requests 1 --neighbours free --rounds 5
    python benchmarks/neighbour.py --flag=--model=DIR --flag=--quantization=int8
    python benchmarks/neighbour.py --install before=OTHER/.venv/bin/python --install now=.venv/bin/python

Each installation loads the model in a process of its own, which is idle while another is measured. A round measures
every number of requests alone and beside each kind of neighbour, one installation after the other, so that all see the
same minutes. Printed are medians over the rounds: output tokens a second alone, and the share of them that is kept.
Nothing else should run on the machine.

  free     a loop that the system may run on any core
  core-0   a loop that runs on core 0 only
  session  a free loop in a session of its own, which Linux gives a share of the cores as large as all of Octavo's
  idle     no neighbour; in place of a share, the processor time that the engine takes while it has no request
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

LOOP = "while True: pass"
NEIGHBOURS = ("free", "core-0", "session")
ALONE = "alone"
PROMPT_TOKENS = 32
SETTLING_S = 0.3
"""From a neighbour's start until the measurement's."""
IDLE_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 16, 64], help="at once")
    parser.add_argument("--neighbours", nargs="+", choices=(*NEIGHBOURS, "idle"), default=["free", "core-0"])
    parser.add_argument("--count", type=int, default=1, help="neighbours at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement, at the least")
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument(
        "--flag", action="append", default=[], help="a knob of the engine, as --flag=--dtype=bfloat16; may be repeated"
    )
    parser.add_argument(
        "--install", action="append", metavar="NAME=PYTHON", help="an interpreter that has Octavo; default: this one"
    )
    parser.add_argument("--serve-measurements", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve_measurements:
        serve(asked)
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    """Measure everything and print it."""
    installs = dict(install.split("=", 1) for install in asked.install or [f"octavo={sys.executable}"])
    kinds = [ALONE, *asked.neighbours]
    figures: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        engines = {name: stack.enter_context(engine(python)) for name, python in installs.items()}
        for _ in range(asked.rounds):
            for requests in asked.requests:
                for kind in kinds:
                    for name, process in engines.items():
                        with neighbours(kind, asked.count):
                            figure = measured(process, 0 if kind == "idle" else requests)
                        figures[name, requests, kind].append(figure)
                        print(f"{name} {requests} {kind} {figure:.4g}", file=sys.stderr, flush=True)
    for (name, requests, kind), values in figures.items():
        value = statistics.median(values)
        if kind == ALONE:
            print(f"{name:10} {requests:4} requests alone {value:10.1f} tokens/s", flush=True)
        elif kind == "idle":
            print(f"{name:10} {requests:4} requests {kind:7} {value:10.4f} of a core")
        else:
            share = statistics.median(
                value / alone for value, alone in zip(values, figures[name, requests, ALONE], strict=True)
            )
            print(f"{name:10} {requests:4} requests {kind:7} {value:8.1f} tokens/s, {share:4.0%} kept", flush=True)


@contextlib.contextmanager
def engine(python: str) -> Iterator[subprocess.Popen[str]]:
    """A process that measures what it is asked for, a line a measurement."""
    command = [python, __file__, "--serve-measurements", *sys.argv[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def measured(process: subprocess.Popen[str], requests: int) -> float:
    """What an engine answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(requests, file=process.stdin, flush=True)
    return float(json.loads(process.stdout.readline()))


@contextlib.contextmanager
def neighbours(kind: str, count: int) -> Iterator[None]:
    """Processes that compute until this ends."""
    if kind not in NEIGHBOURS:
        yield
        return
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=kind == "session") for _ in range(count)]
    try:
        if kind == "core-0":
            for loop in loops:
                os.sched_setaffinity(loop.pid, {0})
        time.sleep(SETTLING_S)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def serve(asked: argparse.Namespace) -> None:
    """Measure as many requests as each line says, none for the time that an idle engine takes; print the figure."""
    from octavo import LLM, SamplingParams  # not in the parent: it needs no engine

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    knobs: dict[str, Any] = {"model": "smollm2", "quantization": "int8", "kv_cache_memory": "1GiB", "speculate": "off"}
    for flag in asked.flag:
        name, _, value = flag.removeprefix("--").partition("=")
        knobs[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    params = SamplingParams(temperature=0, max_tokens=asked.output_len, ignore_eos=True)
    with LLM(**knobs) as llm:
        for line in sys.stdin:
            requests = int(line)
            prompts = [[1 + (7 * row + place) % 900 for place in range(PROMPT_TOKENS)] for row in range(requests)]
            figure = throughput(llm, prompts, params, asked.seconds) if prompts else idle_share()
            print(json.dumps(figure), file=answers, flush=True)


def throughput(llm: Any, prompts: list[list[int]], params: Any, seconds: float) -> float:
    """Output tokens a second."""
    begun = time.perf_counter()
    num_tokens = 0
    while (taken := time.perf_counter() - begun) < seconds:
        num_tokens += len(prompts) * params.max_tokens
        llm.generate(prompts, params, use_tqdm=False)
    return num_tokens / taken if num_tokens else 0.0


def idle_share() -> float:
    """Processor seconds a second of this process."""
    begun, used = time.perf_counter(), time.process_time()
    time.sleep(IDLE_S)
    return (time.process_time() - used) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
