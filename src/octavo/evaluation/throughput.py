"""Offline throughput: a workload through `LLM`, all requests at once, and one stream alone."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import msgspec

from octavo.errors import RequestError
from octavo.evaluation.workloads import Work, renewed
from octavo.llm import LLM
from octavo.sampling_params import SamplingParams
from octavo.scheduling.admission import resolve_max_tokens

STREAM_PROMPT, STREAM_OUTPUT, STREAM_REPEATS = 32, 256, 3
WARM_UP_REQUESTS, WARM_UP_OUTPUT = 2, 8
MOMENT_S = 0.05
"""Between two looks at the engine."""


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a second; the workload once, the single stream as the median of three."""

    peer: str = "octavo"
    precision: str
    requests: int
    output_tok_s: float
    total_tok_s: float
    single_stream_tok_s: float
    load_s: float


class Moment(msgspec.Struct, frozen=True):
    """What the engine was doing while the workload ran."""

    second: float
    """Since the workload began."""
    output_tokens: int
    """So far."""
    running: int
    waiting: int
    blocks_used: float
    """Share of the block pool."""


def num_output_tokens(work: list[Work]) -> int:
    """Output tokens of a whole measurement: warm-up, workload and single streams."""
    warm_up = WARM_UP_OUTPUT * len(work[:WARM_UP_REQUESTS])
    return warm_up + sum(w.out for w in work) + STREAM_OUTPUT * STREAM_REPEATS


def measure(
    llm: LLM,
    work: list[Work],
    *,
    precision: str,
    load_s: float,
    produced: Callable[[int], object] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Throughput, list[Moment]]:
    """Warm up, run the workload, then single streams: greedy, past end-of-sequence tokens, with new ids each time.

    Args:
        precision: of the products' weights; passed on.
        load_s: seconds that making `llm` took; passed on.
        produced: told the number of new output tokens as they come.
        clock: tells the seconds.

    Raises:
        RequestError: a request of the workload does not fit.
    """
    vocab_size = llm.engine.executor.capacity.vocab_size
    _check_fits(llm, work)
    _Run(llm, produced, clock).generate(
        renewed([Work(w.ids, WARM_UP_OUTPUT) for w in work[:WARM_UP_REQUESTS]], 0, vocab_size)
    )
    run = _Run(llm, produced, clock)
    seconds = run.generate(renewed(work, 1, vocab_size))
    stream = [Work(work[0].ids[:STREAM_PROMPT], STREAM_OUTPUT)]
    alone = [
        STREAM_OUTPUT / _Run(llm, produced, clock).generate(renewed(stream, 2 + repeat, vocab_size))
        for repeat in range(STREAM_REPEATS)
    ]
    num_out, num_in = sum(w.out for w in work), sum(len(w.ids) for w in work)
    figures = Throughput(
        precision=precision,
        requests=len(work),
        output_tok_s=round(num_out / seconds, 1),
        total_tok_s=round((num_out + num_in) / seconds, 1),
        single_stream_tok_s=round(statistics.median(alone), 1),
        load_s=round(load_s, 1),
    )
    return figures, run.moments


def _check_fits(llm: LLM, work: list[Work]) -> None:
    """The engine would cut what a request may generate, and a benchmark would measure something else.

    Raises:
        RequestError: a request of the workload does not fit.
    """
    for number, each in enumerate(work):
        room = resolve_max_tokens([0] * len(each.ids), SamplingParams(max_tokens=None), llm.engine.scheduler.limits)
        if room < each.out:
            raise RequestError(
                f"prompt {number}: its {len(each.ids)} tokens leave room for {room} of {each.out} output tokens: "
                "raise --max-model-len or --kv-cache-memory"
            )


class _Run:
    """One go at some work, watched as it goes."""

    def __init__(self, llm: LLM, produced: Callable[[int], object], clock: Callable[[], float]) -> None:
        self.moments: list[Moment] = []
        self._llm = llm
        self._produced = produced
        self._clock = clock
        self._start_s = 0.0
        self._num_tokens = 0

    def generate(self, work: list[Work]) -> float:
        """Seconds for the work."""
        params = [SamplingParams(temperature=0, max_tokens=w.out, ignore_eos=True) for w in work]
        self._start_s = next_look_s = self._clock()
        self._look(self._start_s)
        for assembler in self._llm.stream([w.ids for w in work], params):
            self._count(sum(len(delta.token_ids) for delta in assembler.take_delta()))
            if (now_s := self._clock()) >= next_look_s:
                self._look(now_s)
                next_look_s = now_s + MOMENT_S
        seconds = self._clock() - self._start_s
        self._look(self._start_s + seconds)
        if self._num_tokens != (wanted := sum(w.out for w in work)):
            raise RuntimeError(f"{self._num_tokens} tokens were produced, {wanted} asked for")
        return seconds

    def _count(self, num_tokens: int) -> None:
        self._num_tokens += num_tokens
        self._produced(num_tokens)

    def _look(self, now_s: float) -> None:
        scheduler = self._llm.engine.scheduler
        used = scheduler.memory.num_used_blocks / scheduler.limits.num_blocks
        moment = Moment(now_s - self._start_s, self._num_tokens, scheduler.num_running, scheduler.num_waiting, used)
        self.moments.append(moment)


def plot(figures: Throughput, moments: list[Moment], path: str) -> None:
    """Draw tokens a second, requests and KV memory over the workload's time, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.5), layout="constrained")
    rates, requests, memory = figure.subplots(3, sharex=True)
    seconds = [moment.second for moment in moments]
    stride = max(1, len(moments) // 60)
    marks = moments[::stride]
    rates.stairs(
        [(b.output_tokens - a.output_tokens) / (b.second - a.second) for a, b in pairwise(marks)],
        [moment.second for moment in marks],
    )
    rates.axhline(figures.output_tok_s, color="grey", linestyle="--", label=f"mean {figures.output_tok_s:,.0f}")
    rates.set(ylabel="output tokens/s", title=f"{figures.requests} requests at once, {figures.precision}")
    requests.plot(seconds, [moment.running for moment in moments], label="running")
    requests.plot(seconds, [moment.waiting for moment in moments], label="waiting")
    requests.set(ylabel="requests")
    memory.plot(seconds, [100 * moment.blocks_used for moment in moments])
    memory.set(xlabel="seconds", ylabel="KV blocks in use (%)")
    for axes in (rates, requests, memory):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rates.legend()
    requests.legend()
    figure.savefig(path, dpi=120)
