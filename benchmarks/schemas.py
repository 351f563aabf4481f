#!/usr/bin/env python3
"""Does each answer validate against the schema that it was asked to conform to?

    python benchmarks/schemas.py                       # 200 schemas, smollm2
    python benchmarks/schemas.py --count 24 --seed 1

Each schema is refused at once with a reason, or its answer is validated with the `jsonschema` package, formats too;
answers that --max-tokens cuts are counted apart. Prints what was wrong and a line of figures; the exit status is 1
where something was.
"""

import argparse
import contextlib
import json
import sys
from collections import Counter
from typing import Any

import jsonschema
from schema_kinds import Schema, drawn

from octavo import LLM, SamplingParams, StructuredOutputsParams
from octavo.errors import RequestError
from octavo.sampling.grammar_sources import check_grammar

PROMPT = "<|im_start|>user\nWrite a short {kind} as JSON, with made-up values.<|im_end|>\n<|im_start|>assistant\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--count", type=int, default=200, help="schemas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--kv-cache-memory", default="1GiB")
    asked = parser.parse_args()

    told: dict[str, Counter[str]] = {}
    taken: list[tuple[str, Schema]] = []
    for kind, schema in drawn(asked.count, asked.seed):
        try:
            check_grammar(StructuredOutputsParams(json=schema).grammar_of_output())
            taken.append((kind, schema))
        except RequestError as error:
            told.setdefault(kind, Counter())["refused"] += 1
            print(f"{kind}: refused: {error}: {json.dumps(schema)[:200]}")
    params = [
        SamplingParams(
            structured_outputs=StructuredOutputsParams(json=schema),
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            seed=asked.seed + number,
        )
        for number, (_, schema) in enumerate(taken)
    ]
    with LLM(asked.model, kv_cache_memory=asked.kv_cache_memory) as llm:
        outputs = llm.generate([PROMPT.format(kind=kind) for kind, _ in taken], params)
        num_steps = llm.engine.num_steps
    num_tokens = 0
    for (kind, schema), output in zip(taken, outputs, strict=True):
        [answer] = output.outputs
        num_tokens += len(answer.token_ids)
        problem = None if answer.finish_reason == "stop" else answer.finish_reason
        if problem is None:
            problem = why_invalid(schema, answer.text)
        told.setdefault(kind, Counter())[{None: "valid", "length": "cut"}.get(problem, "wrong")] += 1
        if problem not in (None, "length"):
            print(f"{kind}: {problem}: {answer.text[:300]!r} for {json.dumps(schema)}")
    for kind, counts in told.items():
        print(f"{kind:14}", dict(counts))
    total: Counter[str] = sum(told.values(), Counter())
    print(f"{asked.count} schemas: {dict(total)}; {num_tokens} tokens in {num_steps} steps of all together")
    return 1 if total["wrong"] else 0


def why_invalid(schema: Schema, text: str) -> str | None:
    """What is wrong with an answer that has ended; None if nothing is."""
    kind: Any = jsonschema.Draft202012Validator
    with contextlib.suppress(KeyError):
        kind = jsonschema.validators.validator_for(schema, default=kind)
    try:
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).partition("\n")[0]
    return None


if __name__ == "__main__":
    sys.exit(main())
