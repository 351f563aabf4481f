"""Throughput of requests that all begin with one prefix, with and without sharing its blocks (paper, figure 16)."""

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from octavo.config import EngineConfig, PrefixCacheScope
from octavo.engine.engine import Engine
from octavo.evaluation.drawing import paired_bars
from octavo.evaluation.workloads import Work, renewed
from octavo.execution.executor import Executor
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

PAPER = {80: 1.67, 341: 3.58}
"""Tokens of the prefix: throughput over Orca (Oracle), which shares nothing; LLaMA-13B, translation (section 6.4)."""


class PrefixGain(msgspec.Struct, frozen=True, kw_only=True):
    """Output tokens a second, medians over the rounds; `gain` is the median of the rounds' ratios."""

    prefix_tokens: int
    requests: int
    rounds: int
    shared_tok_s: float
    unshared_tok_s: float
    gain: float
    cached_tokens: int
    """Prompt tokens of a round that were not computed."""
    paper: float | None


def measure(
    executor: Executor,
    config: EngineConfig,
    work: Sequence[Work],
    *,
    prefix_tokens: int,
    rounds: int,
    produced: Callable[[int], object] = lambda _: None,
) -> PrefixGain:
    """Run the work behind a prefix, all at once, with the prefix cache on and off in turn.

    As in the paper the prefix is there before the requests come: one request with it alone has run, in both ways,
    before the time is taken. Each round has token ids of its own.

    Args:
        config: of the engines, but for their prefix caches.
        produced: told the number of output tokens of each run that is over.

    Raises:
        RequestError: a request of the work does not fit.
    """
    rates: dict[PrefixCacheScope, list[float]] = {"tenant": [], "off": []}
    num_cached = 0
    for number in range(rounds):
        own = renewed(list(work), number, executor.capacity.vocab_size)
        prefix = _prefix(prefix_tokens, number, executor.capacity.vocab_size)
        for scope, of_scope in rates.items():
            engine = Engine.configured(executor, dataclasses.replace(config, prefix_cache_scope=scope))
            _run(engine, [Work(prefix, 1)])
            before = engine.ledger().totals.num_hit_tokens
            start_s = time.perf_counter()
            _run(engine, [Work(prefix + each.ids, each.out) for each in own])
            num_produced = sum(each.out for each in own)
            of_scope.append(num_produced / (time.perf_counter() - start_s))
            num_cached = max(num_cached, engine.ledger().totals.num_hit_tokens - before)
            produced(num_produced)
    shared, unshared = rates["tenant"], rates["off"]
    return PrefixGain(
        prefix_tokens=prefix_tokens,
        requests=len(work),
        rounds=rounds,
        shared_tok_s=round(statistics.median(shared), 1),
        unshared_tok_s=round(statistics.median(unshared), 1),
        gain=round(statistics.median(a / b for a, b in zip(shared, unshared, strict=True)), 2),
        cached_tokens=num_cached,
        paper=PAPER.get(prefix_tokens),
    )


def _prefix(num_tokens: int, seed: int, vocab_size: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(vocab_size) for _ in range(num_tokens)]


def _run(engine: Engine, work: Sequence[Work]) -> None:
    """All of the work at once, greedy, past end-of-sequence tokens."""
    for number, each in enumerate(work):
        params = SamplingParams(temperature=0, max_tokens=each.out, ignore_eos=True)
        engine.add(EngineRequest(str(number), each.ids, params, float(number)))
    while engine.has_unfinished:
        engine.step()


def plot(figures: Sequence[PrefixGain], path: str) -> None:
    """Draw the gains beside the paper's as bars, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    paired_bars(
        axes,
        [str(each.prefix_tokens) for each in figures],
        ("with over without sharing", [each.gain for each in figures]),
        ("paper, over Orca (Oracle)", [each.paper or 0 for each in figures]),
    )
    axes.set(xlabel="tokens of the shared prefix", ylabel="throughput ratio", title="A shared prefix")
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=120)
