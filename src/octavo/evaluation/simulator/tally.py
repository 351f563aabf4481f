"""What a replay is counted in: latencies in histograms and means over time, in memory that does not grow with the
requests."""

import math
from collections import Counter
from typing import NamedTuple, Self

import msgspec

from octavo.memory import Ledger

STEP = math.log(1.005)
"""Between the bins of a histogram: quantiles are within a quarter of a percent."""
QUANTILES = (0.5, 0.9, 0.99)


class Histogram:
    """Numbers of 0 or more, counted in bins of equal ratios."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._num_zeros = 0
        self.total = 0.0
        self.count = 0

    def add(self, number: float) -> None:
        self.count += 1
        self.total += number
        if number > 0:
            self._counts[math.floor(math.log(number) / STEP)] += 1
        else:
            self._num_zeros += 1

    @property
    def mean(self) -> float:
        """0 without numbers."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The number that this share of all is at or below; 0 without numbers."""
        rank = math.ceil(share * self.count) - self._num_zeros
        if rank <= 0:
            return 0.0
        for place in sorted(self._counts):
            rank -= self._counts[place]
            if rank <= 0:
                return math.exp((place + 0.5) * STEP)
        raise AssertionError("a histogram counts all its numbers")

    def merge(self, other: "Histogram") -> None:
        """Take in another one's numbers."""
        self._counts += other._counts
        self._num_zeros += other._num_zeros
        self.total += other.total
        self.count += other.count


class Spread(msgspec.Struct, frozen=True):
    """Seconds: the mean, and the quantiles of `QUANTILES`."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, numbers: Histogram) -> "Spread":
        return cls(numbers.mean, *(numbers.quantile(share) for share in QUANTILES))


class ReplayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How requests were served."""

    requests: int
    """That were answered."""
    refused: int
    """That could never be served here."""
    cut_short: int
    """Of those answered, that got fewer tokens than they asked for, as they filled the memory alone."""
    seconds: float
    """From the first arrival that could be to the last answer's end."""
    request_rate: float
    """Requests answered a second."""
    output_tok_s: float
    total_tok_s: float
    """With prompts."""
    normalized_latency_s: Spread
    """(End-to-end latency / output tokens) of each request (paper, section 6.1)."""
    first_token_s: Spread
    """From a request's arrival to its first token."""
    token_s: Spread | None
    """Between two tokens of a request, after its first: the mean of each request whose tokens do not come all at once;
    None where there is none such."""
    latency_s: Spread
    """From a request's arrival to its last token."""
    mean_running: float
    """Requests that run, averaged over the time in which any does, as all that follow up to the preemptions."""
    mean_waiting: float
    token_states: float
    """Share of the KV memory that holds them, 0 to 1."""
    reserved: float
    """Share that future tokens of the same sequence will fill."""
    internal: float
    """Share that is allocated and never filled."""
    external: float
    """Share that is free and of no use to whoever waits."""
    cached: float
    """Share that no sequence holds and the prefix cache still finds."""
    preemptions: int
    swaps: int
    recomputed_tokens: int
    hit_tokens: int
    """Prompt tokens found in the prefix cache."""
    steps: int


class Holdings(NamedTuple):
    """What an engine holds at a time: requests, and shares of its KV memory."""

    running: float
    waiting: float
    token_states: float
    reserved: float
    internal: float
    external: float
    cached: float

    @classmethod
    def of(cls, ledger: Ledger, num_running: int, num_waiting: int) -> Self:
        slots = max(1, ledger.num_blocks * ledger.block_size)
        return cls(
            num_running,
            num_waiting,
            ledger.num_filled_slots / slots,
            ledger.num_reserved_slots / slots,
            ledger.num_fragmented_slots / slots,
            ledger.num_external_slots / slots,
            ledger.num_cached_blocks * ledger.block_size / slots,
        )

    def until(self, later: "Holdings") -> "Holdings":
        """The mean up to the next look. While the same requests run and wait, the memory fills in a straight line;
        where one has come or gone, it was so until then."""
        if (self.running, self.waiting) != (later.running, later.waiting):
            return self
        return Holdings(*((own + other) / 2 for own, other in zip(self, later, strict=True)))


SHOWN_MOMENTS = 1024
"""That are kept at the most; of longer replays every second one, every fourth and so on."""


class Moments:
    """What an engine holds, over time: its mean, and enough to draw it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sums = [0.0] * len(Holdings._fields)
        self.shown: list[tuple[float, Holdings]] = []
        """At what second it came to be so."""
        self._stride, self._num_added = 1, 0

    def add(self, second: float, held: Holdings, seconds: float) -> None:
        """So it was for some seconds, up to `second`."""
        self.seconds += seconds
        self._sums = [total + each * seconds for total, each in zip(self._sums, held, strict=True)]
        if self._num_added % self._stride == 0:
            self.shown.append((second - seconds, held))
            if len(self.shown) > SHOWN_MOMENTS:
                del self.shown[1::2]
                self._stride *= 2
        self._num_added += 1

    def means(self) -> Holdings:
        """Over the time that was added; zeros without any."""
        return Holdings(*(total / self.seconds if self.seconds else 0.0 for total in self._sums))

    def merge(self, other: "Moments") -> None:
        """Take in another engine's mean. What is shown stays one engine's."""
        self.seconds += other.seconds
        self._sums = [own + more for own, more in zip(self._sums, other._sums, strict=True)]
        self.shown = self.shown or other.shown


class Tally:
    """What is known of a replay so far; of several replicas together, once they are merged."""

    def __init__(self) -> None:
        self.normalized, self.first_token, self.token, self.latency = (Histogram() for _ in range(4))
        self.moments = Moments()
        self.counts: Counter[str] = Counter()
        self.end_s = 0.0
        self.refusal: str | None = None
        """What the first one that was refused was told."""

    def refuse(self, message: str) -> None:
        """A request can never be served."""
        self.counts["refused"] += 1
        self.refusal = self.refusal or message

    def finish(
        self,
        arrival_s: float,
        first_s: float,
        end_s: float,
        num_prompt: int,
        num_output: int,
        num_sequences: int = 1,
        *,
        is_short: bool = False,
    ) -> None:
        """A request has been answered.

        Args:
            num_output: tokens of all its sequences.
            is_short: it has asked for more.
        """
        num_each = num_output / num_sequences
        self.normalized.add((end_s - arrival_s) / num_each)
        self.first_token.add(first_s - arrival_s)
        self.latency.add(end_s - arrival_s)
        if num_each > 1 and end_s > first_s:
            self.token.add((end_s - first_s) / (num_each - 1))
        self.counts["cut_short"] += is_short
        self.counts["prompt_tokens"] += num_prompt
        self.counts["output_tokens"] += num_output
        self.end_s = max(self.end_s, end_s)

    def merge(self, other: "Tally") -> None:
        """Take in another replica's."""
        self.normalized.merge(other.normalized)
        self.first_token.merge(other.first_token)
        self.token.merge(other.token)
        self.latency.merge(other.latency)
        self.moments.merge(other.moments)
        self.counts += other.counts
        self.refusal = self.refusal or other.refusal
        self.end_s = max(self.end_s, other.end_s)

    def figures(self) -> ReplayFigures:
        seconds, counts, means = self.end_s, self.counts, self.moments.means()
        num_requests, num_output = self.latency.count, counts["output_tokens"]
        return ReplayFigures(
            requests=num_requests,
            refused=counts["refused"],
            cut_short=counts["cut_short"],
            seconds=seconds,
            request_rate=num_requests / seconds if seconds else 0.0,
            output_tok_s=num_output / seconds if seconds else 0.0,
            total_tok_s=(num_output + counts["prompt_tokens"]) / seconds if seconds else 0.0,
            normalized_latency_s=Spread.of(self.normalized),
            first_token_s=Spread.of(self.first_token),
            token_s=Spread.of(self.token) if self.token.count else None,
            latency_s=Spread.of(self.latency),
            mean_running=means.running,
            mean_waiting=means.waiting,
            token_states=means.token_states,
            reserved=means.reserved,
            internal=means.internal,
            external=means.external,
            cached=means.cached,
            preemptions=counts["preemptions"],
            swaps=counts["swaps"],
            recomputed_tokens=counts["recomputed_tokens"],
            hit_tokens=counts["hit_tokens"],
            steps=counts["steps"],
        )
