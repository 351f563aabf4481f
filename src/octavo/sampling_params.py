"""What a request asks of sampling. A leaf: plain data, checked when made, and the same on both sides of a process
boundary."""

import copy
import math
from enum import Enum
from typing import Any, ClassVar, Literal, Self

import msgspec

from octavo.errors import RequestError
from octavo.structured_outputs import GuidedDecodingParams as GuidedDecodingParams  # vLLM has it here, too
from octavo.structured_outputs import StructuredOutputsParams as StructuredOutputsParams
from octavo.vllm.keywords import BEAM_SEARCH, SAMPLING, Parameters

MIN_SEED, MAX_SEED = -(2**63), 2**63 - 1
"""Seeds are of 64 bits, with a sign."""
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 1e-6, 1e6
"""Logits that are divided or multiplied by these stay normal numbers in float32."""
MAX_SAMPLES = 65_536
"""Of one prompt: books are kept of each from the beginning, whether it runs or waits."""
ALL_TOKENS = -1
"""In place of a number of likeliest tokens: the whole vocabulary."""


def _is_finite(value: Any) -> bool:
    """Whether this is a number that a float holds."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python doesn't print an int of more than some thousand digits.
        return "a number of too many digits"


def _check(good: bool, field: str, wanted: str, value: Any) -> None:
    if not good:
        raise RequestError(f"{field} must be {wanted}, got {_shown(value)}")


def _is_whole(value: Any, low: int, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


EarlyStopping = bool | Literal["never"]
MAX_LENGTH_PENALTY = 10


class Beams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A search among likely sequences instead of a draw: `SamplingParams.beams`, or what `BeamSearchParams` stands for.

    The rules are those of transformers' `generate(num_beams=...)`: scores are sums of log-probabilities, biases and
    penalties included, over the sequence's length to the power of `length_penalty`, its end-of-sequence token counted.

    Raises:
        RequestError: a value is outside its range; the message names the field.
    """

    width: int
    """Beams kept at each step, and hypotheses collected."""
    length_penalty: float = 1.0
    """Above 0 favours longer sequences, below 0 shorter ones; 0 compares plain sums."""
    early_stopping: EarlyStopping = False
    """When to end once `width` hypotheses are finished: True at once; False when the best beam would not be among them
    at its present length; "never" when it would not be at its best possible length."""

    def __post_init__(self) -> None:
        _check(_is_whole(self.width, 1), "beam_width", "a whole number of at least 1", self.width)
        is_number = not isinstance(self.length_penalty, bool) and _is_finite(self.length_penalty)
        _check(
            is_number and abs(self.length_penalty) <= MAX_LENGTH_PENALTY,
            "length_penalty",
            f"between -{MAX_LENGTH_PENALTY} and {MAX_LENGTH_PENALTY}",
            self.length_penalty,
        )
        is_known = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        _check(is_known, "early_stopping", 'true, false or "never"', self.early_stopping)


class RequestOutputKind(Enum):
    """What an engine that is stepped, or streams, tells of a request at a time."""

    CUMULATIVE = 0
    """All so far."""
    DELTA = 1
    """What is new."""
    FINAL_ONLY = 2
    """All, once it is over."""


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True, metaclass=Parameters):
    """How to turn a request's logits into tokens, and when to stop.

    The defaults sample from the model's own distribution. `temperature=0` is greedy: the most likely token, ties to the
    lowest id. Names, meanings and defaults follow the OpenAI API and vLLM where those have them. Fields may be set;
    a request is made with a copy, which is checked again.

    Raises:
        RequestError: a value is outside its range; the message names the field.
    """

    foreign: ClassVar = SAMPLING
    """vLLM's keywords that are no fields."""
    older_names: ClassVar = {"guided_decoding": "structured_outputs"}

    n: int = 1
    """Sequences to generate from the prompt; they share the prompt's blocks."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities add up to this; 0 keeps the most likely one."""
    min_p: float = 0.0
    """Keep tokens at least this likely, as a share of the most likely token's probability."""
    presence_penalty: float = 0.0
    """Subtracted once from every token already generated, -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted for each time a token was generated, -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or the output (Keskar et al., CTRL,
    2019)."""
    logit_bias: dict[int, float] | None = None
    """Added to the logits of these token ids."""
    allowed_token_ids: list[int] | None = None
    """Only these tokens may be generated."""
    seed: int | None = None
    """The engine's own choice when None or -1. One seed gives one stream of random numbers, whatever else is in the
    batch; so the text is the same as far as rounding in the model's dtype allows, exactly in float64."""
    max_tokens: int | None = 16
    """Tokens to generate at most; None is as many as fit."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are not sampled before this many tokens."""
    stop: str | list[str] | None = None
    """Texts that end a sequence; the text ends before the match. Special tokens can be spelled in them."""
    stop_regex: str | list[str] | None = None
    """Regexes of Python's `re` that end a sequence as a stop does, at the first character that completes a match. Those
    that look ahead or behind, or at the text's end, are refused, as are back references
    (`tokenization.regex_syntax`)."""
    bad_words: list[str] | None = None
    """Texts whose tokens are not generated one after another, at the start of a word or within one."""
    bad_words_ids: list[list[int]] | None = None
    """The same as token ids: none of these lists is generated, one token of it after another."""
    stop_token_ids: list[int] | None = None
    """Token ids that end a sequence, beside the model's own end-of-sequence."""
    include_stop_str_in_output: bool = False
    """Leave the matched stop text (or the stop token's text) at the end of the text."""
    ignore_eos: bool = False
    """Go on after the model's end-of-sequence token."""
    logprobs: int | None = None
    """For each generated token the log-probability of it and of this many most likely ones (of the model's own
    distribution); -1 is all tokens."""
    prompt_logprobs: int | None = None
    """The same for each token of the prompt but the first."""
    logprob_token_ids: list[int] | None = None
    """For each generated token the log-probability of it and of exactly these tokens, in place of the most likely ones:
    `logprobs` is left out, or their number."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    structured_outputs: StructuredOutputsParams | None = None
    """What the output conforms to: it ends where that says so, or at `max_tokens`. That goes before `min_tokens`. With
    `ignore_eos` the model's end-of-sequence tokens fill what is left of `max_tokens`."""
    thinking_token_budget: int | None = None
    """Tokens of the reasoning section that the prompt has opened, or that the output opens: its end is forced behind
    so many. They count for `max_tokens`, too."""
    beams: Beams | None = None
    """Search for the likeliest sequences and give the best `n`: temperature, truncation and seed play no part then."""
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """For `LLMEngine` and `AsyncLLM`; an `LLM`'s calls return what is over."""

    def __post_init__(self) -> None:
        def check(good: bool, field: str, wanted: str) -> None:
            _check(good, field, wanted, getattr(self, field))

        def finite(field: str) -> bool:
            value = getattr(self, field)
            return not isinstance(value, bool) and _is_finite(value)

        whole = _is_whole
        check(whole(self.n, 1, MAX_SAMPLES), "n", f"a whole number of 1 to {MAX_SAMPLES}")
        check(finite("temperature") and self.temperature >= 0, "temperature", "a finite number of at least 0")
        check(whole(self.top_k, -1), "top_k", "a whole number of at least 1, or 0 or -1 for all")
        check(finite("top_p") and 0 <= self.top_p <= 1, "top_p", "between 0 and 1")
        check(finite("min_p") and 0 <= self.min_p <= 1, "min_p", "between 0 and 1")
        for field in ("presence_penalty", "frequency_penalty"):
            check(finite(field) and -2 <= getattr(self, field) <= 2, field, "between -2 and 2")
        lowest, highest = MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY
        check(
            finite("repetition_penalty") and lowest <= self.repetition_penalty <= highest,
            "repetition_penalty",
            f"a finite number from {lowest:g} to {highest:g}",
        )
        check(self.seed is None or whole(self.seed, MIN_SEED, MAX_SEED), "seed", "a whole number of 64 bits, signed")
        check(self.max_tokens is None or whole(self.max_tokens, 1), "max_tokens", "a whole number of at least 1")
        check(whole(self.min_tokens, 0), "min_tokens", "a whole number of at least 0")
        if self.max_tokens is not None:
            check(self.min_tokens <= self.max_tokens, "min_tokens", f"at most max_tokens ({_shown(self.max_tokens)})")
        for field in ("logprobs", "prompt_logprobs"):
            check(
                getattr(self, field) is None or whole(getattr(self, field), ALL_TOKENS),
                field,
                "a whole number of at least 0, or -1 for all tokens",
            )
        for field in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens"):
            check(isinstance(getattr(self, field), bool), field, "True or False")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        regexes = [self.stop_regex] if isinstance(self.stop_regex, str) else self.stop_regex or []
        for field, texts in (("stop", stops), ("stop_regex", regexes), ("bad_words", self.bad_words or [])):
            check(
                isinstance(texts, list) and all(isinstance(text, str) and text for text in texts),
                field,
                "a list of texts, none empty" if field == "bad_words" else "a text or a list of texts, none empty",
            )
        words = self.bad_words_ids or []
        check(
            isinstance(words, list)
            and all(isinstance(word, list) and word and all(whole(i, 0) for i in word) for word in words),
            "bad_words_ids",
            "a list of lists of token ids, none empty",
        )
        for field in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
            ids = getattr(self, field)
            check(
                ids is None or (isinstance(ids, list) and all(whole(i, 0) for i in ids)), field, "a list of token ids"
            )
        for field in ("allowed_token_ids", "logprob_token_ids"):
            check(getattr(self, field) != [], field, "None or not empty")
        if self.logprob_token_ids is not None:
            count = len(self.logprob_token_ids)
            check(self.logprobs in (None, count), "logprobs", f"left out, or the number of logprob_token_ids ({count})")
        check(
            self.logit_bias is None or isinstance(self.logit_bias, dict),
            "logit_bias",
            "a dict from token ids to numbers",
        )
        for token_id, bias in (self.logit_bias or {}).items():
            check(
                whole(token_id, 0) and _is_finite(bias),
                "logit_bias",
                "token ids with finite numbers",
            )
        check(
            self.structured_outputs is None or isinstance(self.structured_outputs, StructuredOutputsParams),
            "structured_outputs",
            "a StructuredOutputsParams",
        )
        budget = self.thinking_token_budget
        check(budget is None or whole(budget, 0), "thinking_token_budget", "a whole number of at least 0")
        if self.beams is not None:
            check(self.n <= self.beams.width, "n", f"at most the beam width ({_shown(self.beams.width)})")
            for field in ("stop", "stop_regex"):
                wanted = "left out of a beam search, which ends at tokens only (stop_token_ids)"
                check(not getattr(self, field), field, wanted)
            check(self.logprob_token_ids is None, "logprob_token_ids", "left out of a beam search: it has logprobs")

        check(isinstance(self.output_kind, RequestOutputKind), "output_kind", "a RequestOutputKind")

    def clone(self) -> Self:
        """A copy that shares nothing with this one.

        Raises:
            RequestError: a field has been set to what it cannot be.
        """
        return copy.deepcopy(self)

    @property
    def own_seed(self) -> int | None:
        """The seed as a number without a sign; None where the engine chooses it."""
        return None if self.seed in (None, -1) else self.seed % 2**64

    @property
    def tells_logprobs(self) -> bool:
        """Whether generated tokens come with log-probabilities."""
        return self.logprobs is not None or self.logprob_token_ids is not None

    @property
    def num_sequences(self) -> int:
        """The sequences of its answer: samples, or a search's beams."""
        return self.n if self.beams is None else self.beams.width

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple, whichever way they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def stop_regexes(self) -> tuple[str, ...]:
        """The regexes in the same way."""
        if self.stop_regex is None:
            return ()
        return (self.stop_regex,) if isinstance(self.stop_regex, str) else tuple(self.stop_regex)


class BeamSearchParams(msgspec.Struct, kw_only=True, omit_defaults=True, metaclass=Parameters):
    """What `LLM.beam_search` takes: how wide to search, and when to stop. See `Beams` for the search's own fields and
    `SamplingParams` for the others.

    Raises:
        RequestError: a value is outside its range; the message names the field.
    """

    foreign: ClassVar = BEAM_SEARCH
    """vLLM's keywords that are no fields."""

    beam_width: int
    n: int | None = None
    """Hypotheses to return, best first; None is `beam_width`. Where masks leave fewer, the rest come empty, with
    `finish_reason` "abort"."""
    max_tokens: int | None = None
    min_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    structured_outputs: StructuredOutputsParams | None = None
    thinking_token_budget: int | None = None

    def __post_init__(self) -> None:
        self.sampling_params()

    def sampling_params(self) -> SamplingParams:
        """The same, as the engine takes it."""
        beams = Beams(width=self.beam_width, length_penalty=self.length_penalty, early_stopping=self.early_stopping)
        given = {name: getattr(self, name) for name in _SHARED_FIELDS}
        n = self.beam_width if self.n is None else self.n
        return SamplingParams(beams=beams, n=n, temperature=0.0, **given)


_SHARED_FIELDS = [name for name in BeamSearchParams.__struct_fields__ if name in SamplingParams.__struct_fields__]
_SHARED_FIELDS.remove("n")
