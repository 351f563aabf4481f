"""The metrics of an `LLM`, kept as its engine is stepped."""

import time

from octavo.engine.engine import Engine
from octavo.metrics.requests import Metrics
from octavo.output_assembler import OutputAssembler
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import RequestUpdate


class OfflineMetrics:
    """Counts requests that one engine runs in this process.

    Args:
        engine: whose load the gauges show.
        model_name: a label.
    """

    def __init__(self, engine: Engine, model_name: str) -> None:
        metrics = Metrics(engine, self, model_name, engine.scheduler.limits.max_model_len)
        self._metrics, self.registry = metrics, metrics.registry
        self._last_token_s: dict[str, float | None] = {}
        """When each open request got its last token, in seconds of `time.monotonic()`; None before the first."""

    @property
    def count(self) -> int:
        """Open requests."""
        return len(self._last_token_s)

    def note_start(self, request_id: str, params: SamplingParams | None) -> None:
        """Count a request that the engine has taken; one that pools has no params."""
        self._last_token_s[request_id] = None
        if params is not None:
            self._metrics.note_start(params)

    def note_update(self, assembler: OutputAssembler, update: RequestUpdate) -> None:
        """Count what a step gave a request, and its end; the assembler has taken it."""
        if any(news.token_ids for news in update.sequences):
            now_s, last_s = time.monotonic(), self._last_token_s[update.request_id]
            if last_s is None:
                output = assembler.output
                self._metrics.note_first_token(len(output.prompt_token_ids), output.metrics.arrival_s)
            self._metrics.note_deltas(update.sequences, None if last_s is None else now_s - last_s)
            self._last_token_s[update.request_id] = now_s
        if any(news.pooled is not None for news in update.sequences):
            self._metrics.note_pooled(len(assembler.output.prompt_token_ids))
        if assembler.finished:
            self.note_end(assembler)

    def note_end(self, assembler: OutputAssembler) -> None:
        """Count a request that is over, or that is left, once."""
        if assembler.request_id in self._last_token_s:
            del self._last_token_s[assembler.request_id]
            output = assembler.output
            self._metrics.note_end(output, output.metrics.arrival_s)
