"""A small model's tokens: beside the reference's on the CPU, and beside themselves in other batches and other ways to
run."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gpu_parts.bench import Bench
from gpu_parts.models import KNOBS, Served
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest


@dataclass
class Output:
    """What a request got."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Of its tokens."""
    prompt_logprobs: list[float] = field(default_factory=list)


def run(bench: Bench) -> Iterator[tuple[str, Any]]:
    """In float32 the reference's tokens are to be the same; in 16 bit rounding may part them. All else is to be the
    same, bit for bit."""
    for dtype in bench.sizes.small_dtypes:
        own = _outputs(bench, dtype)
        reference = _outputs(bench, dtype, device="cpu", kernels="reference")
        yield f"{dtype}, beside the reference on the CPU", _compared(own, reference)
        yield f"{dtype}, each request alone", _compared(own, _outputs(bench, dtype, max_num_seqs=1))
        for name, values in (("cuda_graphs", ("off",)), ("steps_in_flight", (1, 2))):
            for value in values:
                told = f"{dtype}, {name} {value}"
                if name in KNOBS:
                    yield told, _compared(own, _outputs(bench, dtype, **{name: value}))
                else:
                    yield told, "this Octavo has no such knob"


def _outputs(bench: Bench, dtype: str, **knobs: Any) -> list[Output]:
    """Of greedy and drawn requests, run together as far as the knobs let them."""
    sizes = bench.sizes
    served = Served(
        sizes.small,
        str(knobs.pop("device", bench.device.type)),
        {
            "dtype": dtype,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 64 if bench.is_toy else 4096,  # prompts are computed whole, alone or not
            "kv_cache_memory": "1MiB" if bench.is_toy else "256MiB",
            **knobs,
        },
    )
    engine, vocab_size = served.engine(), sizes.small["vocab_size"]
    for number, length in enumerate(sizes.check_prompts):
        params = SamplingParams(
            temperature=0.9 if number % 3 == 2 else 0,
            top_p=0.9,
            seed=number,
            max_tokens=sizes.check_outputs,
            ignore_eos=True,
            logprobs=0,
            prompt_logprobs=0 if number % 2 == 0 else None,
        )
        prompt = [(7919 * number + 31 * place) % (vocab_size - 3) + 3 for place in range(length)]
        engine.add(EngineRequest(str(number), prompt, params, float(number), number))
    outputs = [Output() for _ in sizes.check_prompts]
    while engine.has_unfinished:
        for update in engine.step():
            if update.error is not None:
                raise RuntimeError(update.error)
            output = outputs[int(update.request_id)]
            output.prompt_logprobs += [each.logprob for each in update.prompt_logprobs or ()]
            for sequence in update.sequences:
                output.token_ids += sequence.token_ids
                output.logprobs += [each.logprob for each in sequence.logprobs or ()]
    served.close()
    return outputs


def _compared(own: list[Output], others: list[Output]) -> dict[str, Any]:
    """How far outputs are the same. Log-probabilities of prompts show rounding where tokens differ by it."""
    pairs = list(zip(own, others, strict=True))
    return {
        "same_tokens": sum(one.token_ids == other.token_ids for one, other in pairs) / len(pairs),
        "same_bits": own == others,
        "tokens_before_they_part": min(_num_common(one.token_ids, other.token_ids) for one, other in pairs),
        "largest_difference_of_a_prompts_logprob": max(
            (
                abs(one - other)
                for pair in pairs
                for one, other in zip(*(each.prompt_logprobs for each in pair), strict=True)
            ),
            default=0.0,
        ),
    }


def _num_common(one: list[int], other: list[int]) -> int:
    parted = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(parted, min(len(one), len(other)))
