#!/usr/bin/env python3
"""What structured answers cost: throughput beside free ones, the first mask of a new schema, others' gaps beside
hostile ones.

    python benchmarks/structured.py                                # all of it, smollm2
    python benchmarks/structured.py --parts first-mask --count 200
    python benchmarks/structured.py --requests 8 --output-len 16 --rounds 1 --seconds 5    # does it work at all

Nothing else should run on the machine. A part's requests have the same prompts and the same output lengths whether
they are constrained or not; each has a schema of its own, of `schema_kinds`.

  throughput  requests at once, in interleaved rounds; medians of output tokens a second, and of steps
  first-mask  from a schema that the engine has not seen to the mask of its first token, in milliseconds
  gaps        between the tokens of free streams through a server, alone and while hostile schemas come without end
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from schema_kinds import Schema, drawn

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.checkpoints.resolve import resolve_model
from octavo.config import EngineConfig
from octavo.errors import RequestError
from octavo.sampling.grammar_sources import check_grammar
from octavo.sampling.grammars import BUILT_IN, Grammars, ModelTokens
from octavo.tokenization.loading import load_tokenizer

PERCENTILES = (50, 90, 95, 99, 100)
READY_S = 300
HOSTILE: list[dict[str, Any]] = [
    {"guided_regex": "(a+)+(a+)+b{1,900}[^a]{1,900}"},
    {"guided_regex": "(.*a){40}.{0,300}"},
    {"guided_choice": [f"{i:x}" * 9 for i in range(9000)]},
    {"guided_json": {"$ref": "#"}},
    {"guided_json": {"enum": [[i] * 20 for i in range(4000)]}},
    {"guided_json": {"type": "array", "items": {"type": "string", "pattern": "^(a|b|ab){50,400}$"}, "minItems": 400}},
    {"guided_json": {"type": "object", "properties": {f"p{i}": {"type": ["string", "null"]} for i in range(900)}}},
    {"guided_grammar": 'start: start start | "a" | "b" start "b"'},
]
"""Fields of requests that are to cost a server as much as they can."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--requests", type=int, default=64, help="at once, of `throughput`")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200, help="schemas of `first-mask`")
    parser.add_argument("--streams", type=int, default=8, help="of `gaps`")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each half of `gaps`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kv-cache-memory", default="1GiB")
    parser.add_argument(
        "--flag", action="append", default=[], help="further flags of the server, as in --flag=--dtype=bfloat16"
    )
    asked = parser.parse_args()
    for part in asked.parts:
        print(part, json.dumps(PARTS[part](asked)), flush=True)


def good_schemas(count: int, seed: int) -> list[Schema]:
    """So many schemas that are not refused."""
    found: list[Schema] = []
    for attempt in itertools.count():
        for _, schema in drawn(count, seed + attempt):
            with contextlib.suppress(RequestError):
                check_grammar(StructuredOutputsParams(json=schema).grammar_of_output())
                found.append(schema)
            if len(found) == count:
                return found
    raise AssertionError


def throughput(asked: argparse.Namespace) -> dict[str, Any]:
    """Both throughputs, and their ratio. A constrained answer is a list of more documents than there is room for, so
    that all outputs have the same length."""
    rng = random.Random(asked.seed)
    prompts = [[rng.randrange(1000, 40000) for _ in range(asked.input_len)] for _ in range(asked.requests)]
    free = SamplingParams(temperature=0.8, seed=asked.seed, max_tokens=asked.output_len, ignore_eos=True)
    lists = [
        {**{name: schema[name] for name in ("$defs", "definitions") if name in schema},
         "type": "array", "items": schema, "minItems": asked.output_len}
        for schema in good_schemas(asked.requests, asked.seed)
    ]  # fmt: skip
    held = [
        SamplingParams(
            temperature=0.8,
            seed=asked.seed,
            max_tokens=asked.output_len,
            ignore_eos=True,
            structured_outputs=StructuredOutputsParams(json=schema),
        )
        for schema in lists
    ]
    rates: dict[str, list[float]] = {"free": [], "constrained": []}
    steps: dict[str, int] = {}
    with LLM(asked.model, kv_cache_memory=asked.kv_cache_memory, prefix_cache_scope="off", speculate="off") as llm:
        for _ in range(asked.rounds + 1):  # the first, in which grammars are compiled, does not count
            for name, params in (("free", free), ("constrained", held)):
                before, start_s = llm.engine.num_steps, time.perf_counter()
                outputs = llm.generate([{"prompt_token_ids": each} for each in prompts], params, use_tqdm=False)
                num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
                rates[name].append(num_tokens / (time.perf_counter() - start_s))
                steps[name] = llm.engine.num_steps - before
    medians = {name: round(statistics.median(own[1:]), 1) for name, own in rates.items()}
    return {"tok_s": medians, "ratio": round(medians["constrained"] / medians["free"], 3), "steps": steps}


def first_mask(asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds at `PERCENTILES`."""
    config = resolve_model(EngineConfig(model=asked.model))
    tokenizer = load_tokenizer(config)
    end = tokenizer.token_id(tokenizer.special_tokens["eos_token"]) or 0
    tokens = ModelTokens(
        vocab_size=tokenizer.vocab_size, eos_token_ids=frozenset({end}), load_tokenizer=lambda: tokenizer,
        num_threads=os.cpu_count() or 1,
    )  # fmt: skip
    grammars = Grammars(BUILT_IN, tokens)
    warm, *schemas = [
        StructuredOutputsParams(json=schema).grammar_of_output() for schema in good_schemas(asked.count + 1, asked.seed)
    ]
    grammars.follow(warm, None)  # what the vocabulary takes is taken once
    times_s = []
    for grammar in dict.fromkeys(schemas):
        start_s = time.perf_counter()
        matcher = grammars.follow(grammar, None).grammar
        if matcher is not None:
            grammars.masks([(grammar, matcher)])
        times_s.append(time.perf_counter() - start_s)
    return {"schemas": len(times_s), "ms": _percentiles_ms(times_s)}


def gaps(asked: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds between tokens, alone and beside hostile schemas, and the ratios at each percentile."""
    with _server(asked) as port:
        _gaps_of(asked, port, 2.0, ())
        alone = _percentiles_ms(_gaps_of(asked, port, asked.seconds, ()))
        answers: list[str] = []
        beside = _percentiles_ms(_gaps_of(asked, port, asked.seconds, HOSTILE, answers))
    ratios = {place: round(beside[place] / alone[place], 2) for place in alone}
    told = {text: answers.count(text) for text in sorted(set(answers))}
    return {"alone_ms": alone, "beside_ms": beside, "ratios": ratios, "hostile": told}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "throughput": throughput,
    "first-mask": first_mask,
    "gaps": gaps,
}


def _percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    values = np.percentile(seconds, PERCENTILES) * 1e3
    return {f"p{place}": round(float(value), 2) for place, value in zip(PERCENTILES, values, strict=True)}


@contextlib.contextmanager
def _server(asked: argparse.Namespace) -> Iterator[int]:
    """A server of this model; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = [
        "--model",
        asked.model,
        "--port",
        str(port),
        "--kv-cache-memory",
        asked.kv_cache_memory,
        "--no-log-requests",
        *asked.flag,
    ]
    process = subprocess.Popen([Path(sys.executable).parent / "octavo", "serve", *flags], stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + READY_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > until_s:
                sys.exit("the server has not become ready")
            time.sleep(0.2)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def _gaps_of(
    asked: argparse.Namespace,
    port: int,
    seconds: float,
    hostile: Sequence[dict[str, Any]],
    answers: list[str] | None = None,
) -> list[float]:
    """Seconds between the tokens of free streams, while hostile requests come one after another, if there are any.

    Args:
        answers: gets what each hostile request was answered.
    """
    until_s, found = time.monotonic() + seconds, list[float]()
    streams = [threading.Thread(target=_stream, args=(port, asked, until_s, found)) for _ in range(asked.streams)]
    if hostile:
        streams.append(threading.Thread(target=_attack, args=(port, until_s, hostile, answers)))
    for each in streams:
        each.start()
    for each in streams:
        each.join()
    return found


def _post(port: int, body: dict[str, Any]) -> tuple[HTTPConnection, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=READY_S)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def _stream(port: int, asked: argparse.Namespace, until_s: float, found: list[float]) -> None:
    body = {"prompt": "Once", "max_tokens": 4 * asked.output_len, "ignore_eos": True, "stream": True}
    while time.monotonic() < until_s:
        connection, response = _post(port, body)
        times_s = []
        for line in response:
            if line.startswith(b"data:"):
                times_s.append(time.monotonic())
            if time.monotonic() > until_s:
                break
        found += [after - before for before, after in pairwise(times_s)]
        connection.close()


def _attack(port: int, until_s: float, hostile: Sequence[dict[str, Any]], answers: list[str]) -> None:
    """No two are the same, so that nothing that was compiled, or refused, is remembered."""
    for number in itertools.count():
        if time.monotonic() > until_s:
            return
        kind = number % len(hostile)
        _, response = _post(port, {"prompt": f"{number}", "max_tokens": 16, **_varied(hostile[kind], number)})
        response.read()
        answers.append(f"{kind}: {response.status}")


def _varied(fields: dict[str, Any], number: int) -> dict[str, Any]:
    [(name, value)] = fields.items()
    match name:
        case "guided_json":
            return {name: {**value, "description": f"{number}"}}
        case "guided_choice":
            return {name: [*value, f"{number}"]}
        case "guided_regex":
            return {name: f"({value})|{number}"}
        case _:
            return {name: value.replace('"b"', f'"b{number}"')}


if __name__ == "__main__":
    main()
