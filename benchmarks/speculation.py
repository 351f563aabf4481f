#!/usr/bin/env python3
"""What guesses at tokens gain: an engine with --speculate auto beside one with off, on the same requests in turns.

    python benchmarks/speculation.py --questions ../shared/data/mt_bench_questions.jsonl --quantization int8
    python benchmarks/speculation.py --questions ... --parts copy --requests 2 --output-len 16    # does it work at all

Nothing else should run on the machine. Prompts are made of MT-bench's questions. Answers are greedy, and end where the
model ends them. Where the two engines' tokens are not the same, it says so and ends with status 1.

  copy  one after another: a question's text is to be repeated, so that the answer's text is in the prompt
  edit  one after another: a question's text is to be given again with its first words in capitals
  chat  one after another: questions
  many  questions all at once
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from octavo import LLM, RequestOutput, SamplingParams

TASKS = {
    "copy": "Repeat the following text word for word, and write nothing else.\n\n{}",
    "edit": "Copy the following text, with its first three words in capital letters, and write nothing else.\n\n{}",
    "chat": "{}",
    "many": "{}",
}
AT_ONCE = {"many": 64}
"""Requests at once, of parts in which that is not one."""
NUM_ROUNDS = {"many": 2}
LONGEST = 2000
"""Characters of a text to copy."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", required=True, help="MT-bench's, a JSON object a line with `turns`")
    parser.add_argument("--parts", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--requests", type=int, default=12, help="of parts that run one after another")
    parser.add_argument("--output-len", type=int, default=256, help="tokens of an answer at most")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--kv-cache-memory", default="1GiB", help="of each of the two engines")
    asked = parser.parse_args()
    knobs = {"quantization": asked.quantization, "kv_cache_memory": asked.kv_cache_memory}
    engines = {mode: LLM(asked.model, speculate=mode, **knobs) for mode in ("off", "auto")}
    questions = [json.loads(line)["turns"][0] for line in Path(asked.questions).read_text().splitlines()]
    same = True
    for part in asked.parts:
        figures = measure(engines, part, prompts_of(part, questions, asked.requests), asked.output_len)
        print(part, json.dumps(figures), flush=True)
        same &= figures["same_tokens"]
    sys.exit(not same)


def prompts_of(part: str, questions: Sequence[str], count: int) -> list[str]:
    """The requests of a part: the longest texts where they are to be copied, else questions of all kinds."""
    if part in ("copy", "edit"):
        longest = sorted((text for text in questions if len(text) <= LONGEST), key=len)[-count:]
        return [TASKS[part].format(text) for text in longest]
    count = AT_ONCE.get(part, count)
    return [questions[place * len(questions) // count % len(questions)] for place in range(count)]


def measure(engines: dict[str, LLM], part: str, prompts: Sequence[str], num_tokens: int) -> dict[str, Any]:
    """Run a part with both engines in turns, each going first every other time."""
    at_once = AT_ONCE.get(part, 1)
    seconds, steps = dict.fromkeys(engines, 0.0), dict.fromkeys(engines, 0)
    outputs: dict[str, list[RequestOutput]] = {mode: [] for mode in engines}
    for llm in engines.values():
        answer(llm, prompts[:at_once], 8)
    for place, batch in enumerate(_batches(prompts, at_once, NUM_ROUNDS.get(part, 1))):
        for mode in sorted(engines, reverse=bool(place % 2)):
            num_steps, start_s = engines[mode].engine.num_steps, time.perf_counter()
            outputs[mode] += answer(engines[mode], batch, num_tokens)
            seconds[mode] += time.perf_counter() - start_s
            steps[mode] += engines[mode].engine.num_steps - num_steps
    tokens = {mode: [output.outputs[0].token_ids for output in own] for mode, own in outputs.items()}
    num_output = sum(map(len, tokens["off"]))
    return {
        "requests": len(prompts),
        "output_tokens": num_output,
        "tok_s": {mode: round(num_output / seconds[mode], 1) for mode in engines},
        "ratio": round(seconds["off"] / seconds["auto"], 3),
        "steps": steps,
        "drafted": sum(output.metrics.drafts.num_drafted for output in outputs["auto"]),
        "accepted": sum(output.metrics.drafts.num_accepted for output in outputs["auto"]),
        "same_tokens": tokens["off"] == tokens["auto"],
    }


def answer(llm: LLM, prompts: Sequence[str], num_tokens: int) -> list[RequestOutput]:
    """Greedy answers to users who say this."""
    llm.reset_prefix_cache()
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return llm.chat(chats, SamplingParams(temperature=0, max_tokens=num_tokens), use_tqdm=False)


def _batches(prompts: Sequence[str], at_once: int, num_rounds: int) -> Iterator[Sequence[str]]:
    for _ in range(num_rounds):
        for first in range(0, len(prompts), at_once):
            yield prompts[first : first + at_once]


if __name__ == "__main__":
    main()
