"""Turning the engine's token updates of one request into what its caller gets, text included."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from octavo.outputs import CompletionOutput, FinishReason, Logprob, RequestMetrics, RequestOutput, TokenLogprobs
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import RequestUpdate, SequenceUpdate
from octavo.tokenization.regex_search import automaton_of
from octavo.tokenization.stop_strings import StopChecker
from octavo.tokenization.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one sequence gained since it was last asked.

    Text may come later than its tokens: it is held back while it could begin a stop.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: FinishReason | None
    """Set in the sequence's last delta only."""
    stop_reason: int | str | None


class OutputAssembler:
    """Collects one request's updates. An update costs what is new in it, however long the texts are.

    Args:
        tokenizer: the model's.
        request_id: which request's updates will be applied.
        prompt: None where token ids were given.
        prompt_token_ids: what the engine was given.
        params: the request's; they say what of a stop is shown and whether logprobs are.
        arrival_s: `time.monotonic()` when the request came.
        special_stops: `tokenizer.special_stops(params)`, where it is known already.
        kept_specials: special tokens that are part of one of these stay in the text, whatever the parameters say.

    Raises:
        RequestError: a regex of `stop_regex` cannot be had.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        arrival_s: float,
        special_stops: Collection[str] | None = None,
        kept_specials: Collection[str] = (),
    ) -> None:
        self.request_id = request_id
        self._token_text = tokenizer.token_text
        if special_stops is None:
            special_stops = tokenizer.special_stops(params)
        self._lock = threading.Lock()
        """Updates may come in one thread while another takes what there is."""
        self._sequences = [
            _Sequence(tokenizer, index, params, special_stops, kept_specials) for index in range(params.n)
        ]
        self._output = RequestOutput(
            request_id=request_id,
            prompt=prompt,
            prompt_token_ids=prompt_token_ids,
            outputs=[sequence.output for sequence in self._sequences],
            metrics=RequestMetrics(arrival_s=arrival_s),
        )

    @property
    def output(self) -> RequestOutput:
        """Everything so far, always the same object. Reading it joins the whole texts; `take_delta` does not."""
        with self._lock:
            for sequence in self._sequences:
                sequence.join_text()
        return self._output

    @property
    def finished(self) -> bool:
        return self._output.finished

    def apply(self, update: RequestUpdate) -> list[int]:
        """Take one update. What comes for a sequence that has ended is ignored.

        Returns:
            The indices of sequences that a stop text ended now while the engine goes on with them:
            the caller aborts them there.
        """
        with self._lock:
            return self._apply(update)

    def _apply(self, update: RequestUpdate) -> list[int]:
        self._note_metrics(update)
        if update.prompt_logprobs is not None:
            scored = [_logprobs_by_token(entry, self._token_text) for entry in update.prompt_logprobs]
            self._output.prompt_logprobs = [None, *scored]
        if update.error is not None:
            logger.error("request %s failed in the engine: %s", self.request_id, update.error)
            for sequence in self._sequences:
                sequence.fail()
        to_abort = []
        for news in update.sequences:
            sequence = self._sequences[news.index]
            if sequence.output.finished:
                continue
            met_stop = sequence.apply(news)
            if met_stop and news.finish_reason is None:
                to_abort.append(news.index)
        if self.finished and self._output.metrics.finished_s is None:
            self._output.metrics.finished_s = time.monotonic()
        return to_abort

    def take_delta(self) -> list[Delta]:
        """What each sequence gained since the last call, sequences without anything new left out.

        Joined, the deltas of a sequence are its text and tokens in `output`.
        """
        with self._lock:
            deltas = [sequence.take_delta() for sequence in self._sequences]
        return [delta for delta in deltas if delta is not None]

    def _note_metrics(self, update: RequestUpdate) -> None:
        metrics = self._output.metrics
        if update.first_scheduled_s is not None:
            metrics.first_scheduled_s = update.first_scheduled_s
        if metrics.first_token_s is None and any(news.token_ids for news in update.sequences):
            metrics.first_token_s = time.monotonic()
        metrics.memory, metrics.drafts = update.memory, update.drafts


class _Sequence:
    """One sequence's output and what it takes to go on with it. The text stays in pieces until it is asked for."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        index: int,
        params: SamplingParams,
        special_stops: Collection[str],
        kept_specials: Collection[str],
    ) -> None:
        self.output = CompletionOutput(index)
        if params.tells_logprobs:
            self.output.logprobs, self.output.cumulative_logprob = [], 0.0
        self._params = params
        self._token_text = tokenizer.token_text
        # An output goes on from its prompt, so a space at its start is its own.
        self._detokenizer = tokenizer.stream(params.skip_special_tokens, continues=True, kept_specials=kept_specials)
        regexes = automaton_of(params.stop_regexes) if params.stop_regexes else None
        self._stop_checker = StopChecker(params.stops, params.include_stop_str_in_output, special_stops, regexes)
        self._is_hidden = self._detokenizer.hides if special_stops else None
        self._pieces: list[str] = []
        self._num_taken_pieces = 0
        self._num_taken_tokens = 0
        self._is_end_taken = False

    def apply(self, update: SequenceUpdate) -> bool:
        """Add the update's tokens, up to the one that completes a stop text; returns whether one did."""
        num_shown = len(update.token_ids)
        if update.finish_reason == "stop" and not self._params.include_stop_str_in_output:
            num_shown -= 1
        for position, token_id in enumerate(update.token_ids):
            self._add_token(token_id, update.logprobs[position] if update.logprobs else None)
            if position >= num_shown:
                continue
            if self._is_hidden is not None and self._is_hidden(token_id):
                stop = self._add_text(self._token_text(token_id), is_hidden=True)
            else:
                stop = self._add_text(self._detokenizer.push(token_id))
            if stop is not None:
                self.output.finish_reason, self.output.stop_reason = "stop", stop
                return True
        if update.cumulative_logprob is not None:
            self.output.cumulative_logprob = update.cumulative_logprob
        if update.pooled is not None:
            self.output.pooled = update.pooled
        if update.finish_reason is not None:
            self._pieces.append(self._stop_checker.finish())
            self.output.finish_reason, self.output.stop_reason = update.finish_reason, update.stop_token_id
        return False

    def fail(self) -> None:
        """The request has failed: what there is stays, unless the sequence is over already."""
        if self.output.finish_reason is None:
            self._pieces.append(self._stop_checker.finish())
            self.output.finish_reason = "error"

    def join_text(self) -> None:
        self.output.text = "".join(self._pieces)

    def take_delta(self) -> Delta | None:
        output = self.output
        text = "".join(self._pieces[self._num_taken_pieces :])
        token_ids = output.token_ids[self._num_taken_tokens :]
        has_ended = output.finished and not self._is_end_taken
        if not (text or token_ids or has_ended):
            return None
        logprobs = None if output.logprobs is None else output.logprobs[self._num_taken_tokens :]
        self._num_taken_pieces, self._num_taken_tokens = len(self._pieces), len(output.token_ids)
        self._is_end_taken = output.finished
        return Delta(output.index, text, token_ids, logprobs, output.finish_reason, output.stop_reason)

    def _add_token(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        self.output.token_ids.append(token_id)
        if self.output.logprobs is not None and logprobs is not None:
            self.output.logprobs.append(_logprobs_by_token(logprobs, self._token_text))
            self.output.cumulative_logprob = (self.output.cumulative_logprob or 0.0) + logprobs.logprob

    def _add_text(self, text: str, is_hidden: bool = False) -> str | None:
        """Pass on what cannot begin a stop text; returns the stop that is now complete.

        A stop may begin in the text of the first `min_tokens` tokens, but not end there.
        """
        may_end = len(self.output.token_ids) > self._params.min_tokens
        text, stop = self._stop_checker.push(text, may_end, is_hidden)
        self._pieces.append(text)
        return stop


def _logprobs_by_token(entry: TokenLogprobs, token_text: Callable[[int], str]) -> dict[int, Logprob]:
    """The token itself first, then the most likely ones in order, or those that were named."""
    at = {entry.token_id: Logprob(entry.logprob, entry.rank, token_text(entry.token_id))}
    ranks = entry.top_ranks or range(1, len(entry.top_token_ids) + 1)
    for token_id, logprob, rank in zip(entry.top_token_ids, entry.top_logprobs, ranks, strict=True):
        at.setdefault(token_id, Logprob(logprob, rank, token_text(token_id)))
    return at
