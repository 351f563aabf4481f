"""Latency of one stream: time to the first token, and between tokens."""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec

from octavo.evaluation.percentiles import PERCENTILES, percentiles_ms
from octavo.llm import LLM
from octavo.sampling_params import SamplingParams


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds at the percentiles of `PERCENTILES`."""

    input_tokens: int
    output_tokens: int
    repeats: int
    first_token_ms: list[float]
    between_tokens_ms: list[float]
    """Empty where there is one output token only."""
    tokens_a_second: float
    """Of the whole stream, prefill included; the median over the repeats."""


def measure(
    llm: LLM, input_tokens: int, output_tokens: int, repeats: int, done: Callable[[], object] = lambda: None
) -> Latency:
    """Run one greedy stream after another, each with token ids of its own.

    Args:
        done: called after each stream.

    Raises:
        RequestError: so many tokens do not fit.
    """
    firsts: list[float] = []
    gaps: list[float] = []
    rates: list[float] = []
    for repeat in range(repeats):
        start_s = time.perf_counter()
        times_s = list(_token_times(llm, input_tokens, output_tokens, repeat))
        firsts.append(times_s[0] - start_s)
        gaps += [later - earlier for earlier, later in pairwise(times_s)]
        rates.append(len(times_s) / (times_s[-1] - start_s))
        done()
    return Latency(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        repeats=repeats,
        first_token_ms=percentiles_ms(firsts),
        between_tokens_ms=percentiles_ms(gaps),
        tokens_a_second=round(statistics.median(rates), 1),
    )


def _token_times(llm: LLM, input_tokens: int, output_tokens: int, repeat: int) -> Iterator[float]:
    num_ids = llm.engine.executor.capacity.vocab_size
    first = repeat * 7919 + input_tokens * 104_729  # begins like no other stream's: the prefix cache must not help
    prompt = [(first + position * 31) % num_ids for position in range(input_tokens)]
    params = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
    for assembler in llm.stream([prompt], params):
        for delta in assembler.take_delta():
            yield from [time.perf_counter()] * len(delta.token_ids)


def plot(figures: list[Latency], path: str) -> None:
    """Draw the percentiles of both latencies against the prompt's length, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    lengths = [case.input_tokens for case in figures]
    for axes, field, title in zip(
        figure.subplots(1, 2), ("first_token_ms", "between_tokens_ms"), ("First token", "Between tokens"), strict=True
    ):
        for number, percentile in enumerate(PERCENTILES):
            values = [getattr(case, field)[number : number + 1] or [float("nan")] for case in figures]
            axes.plot(lengths, values, marker="o", label=f"p{percentile}")
        axes.set_ylim(bottom=0)
        axes.set(xlabel="prompt tokens", ylabel="milliseconds", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
