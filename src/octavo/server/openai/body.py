"""What the bodies of completion requests share: the fields of sampling and streaming, and what is refused."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
)

from octavo.errors import RequestError
from octavo.sampling_params import (
    ALL_TOKENS,
    MAX_LENGTH_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MIN_REPETITION_PENALTY,
    MIN_SEED,
    Beams,
    SamplingParams,
)
from octavo.server.errors import ApiError
from octavo.server.openai.aliases import ALIASES, Alias
from octavo.server.openai.foreign_fields import REFUSED, Neutral, check_foreign, unsupported
from octavo.server.openai.structured_fields import StructuredFields

MAX_WHOLE = 2**31 - 1
DRAWS_NOTHING: dict[str, tuple[float, ...]] = {
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
}
"""Fields of drawing, with the values that a beam search can be given: they leave the model's distribution as it is."""
MAX_BIAS = 100
MOST_LIKELY = "most likely ones; -1 is all tokens, where --max-logprobs -1 allows it"


def _written_as_utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("Input is not valid Unicode: it holds half of a surrogate pair") from None
    return text


def _all_written_as_utf8(value: Any) -> Any:
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise ValueError("Input is not valid Unicode: it holds half of a surrogate pair") from None
    return value


def _whole(value: Any) -> Any:
    """JSON has one type of numbers: 8.0 is 8."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _all_whole(values: Any) -> Any:
    if isinstance(values, list) and float in set(map(type, values)):
        return [_whole(value) for value in values]
    return values


class FirstError(FailFast):
    """Of a list only the first error is told, and made. Unlike pydantic's own it can be hashed, as unions want it."""

    def __hash__(self) -> int:
        return hash(type(self))


Whole = Annotated[int, BeforeValidator(_whole)]
TokenIds = Annotated[list[int], FirstError(), BeforeValidator(_all_whole)]
Text = Annotated[str, AfterValidator(_written_as_utf8)]
"""A text that can be encoded; JSON can spell others."""
Encodable = AfterValidator(_all_written_as_utf8)
"""Of lists and objects: all texts in them can be encoded."""
StopText = Annotated[str, StringConstraints(min_length=1), AfterValidator(_written_as_utf8)]


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="end with a chunk that has the usage and no choices")
    continuous_usage_stats: bool | None = Field(None, description="with include_usage: the usage so far in every chunk")


def tell_aliases(schema: dict[str, Any], kind: type[Any]) -> None:
    """Put other servers' names of the fields into a body's schema."""
    schema["x-other-names"] = {name: alias.field for name, alias in sorted(kind.aliases.items())}


class SamplingFields(BaseModel):
    """How tokens are drawn, and what ends an answer: for every body that asks for one. Fields that are unknown are
    ignored, as clients send new ones."""

    model_config = ConfigDict(strict=True, extra="allow")

    temperature: float | None = Field(None, ge=0, description="divides the logits; 0 is greedy; 1 by default")
    top_p: float | None = Field(
        None, ge=0, le=1, description="keep the most likely tokens that add up to this; 0 keeps the most likely one"
    )
    seed: Whole | None = Field(
        None, ge=MIN_SEED, le=MAX_SEED, description="one seed gives one answer; -1 is as if there were none"
    )
    stop: StopText | Annotated[list[StopText], FirstError()] | None = Field(
        None, description="texts that end an answer; not part of it; special tokens can be spelled in them"
    )
    stop_regex: StopText | Annotated[list[StopText], FirstError()] | None = Field(
        None,
        description="regexes of Python's re, without looking ahead or behind; the first text that matches one ends an "
        "answer as a stop does",
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="once for every token already generated")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="for each time a token was generated")
    logit_bias: dict[str, float] | None = Field(
        None, description=f"added to the logits of these token ids, -{MAX_BIAS} to {MAX_BIAS}"
    )
    top_k: Whole | None = Field(None, ge=-1, le=MAX_WHOLE, description="keep the k most likely tokens; 0 or -1 is all")
    min_p: float | None = Field(
        None, ge=0, le=1, description="keep tokens this likely, as a share of the most likely one's probability"
    )
    repetition_penalty: float | None = Field(
        None,
        ge=MIN_REPETITION_PENALTY,
        le=MAX_REPETITION_PENALTY,
        allow_inf_nan=False,
        description="divides positive and multiplies negative logits of tokens seen before",
    )
    ignore_eos: bool | None = Field(None, description="go on after the model's end-of-sequence token")
    min_tokens: Whole | None = Field(None, ge=0, le=MAX_WHOLE, description="tokens before any that ends the answer")
    stop_token_ids: TokenIds | None = Field(None, description="tokens that end an answer")
    allowed_token_ids: TokenIds | None = Field(None, description="only these tokens are generated")
    bad_words: Annotated[list[StopText], FirstError()] | None = Field(
        None, description="texts whose tokens are not generated one after another"
    )
    bad_words_ids: Annotated[list[TokenIds], FirstError()] | None = Field(
        None, description="lists of token ids that are not generated one after another; [[5], [6]] bans two tokens"
    )
    priority: Whole | None = Field(
        None, description="with --scheduling-policy priority: the lowest goes first, 0 by default"
    )
    cache_salt: StopText | None = Field(
        None, description="share computed prefixes only with requests of the same tenant that bring the same text"
    )
    skip_special_tokens: bool | None = Field(None, description="leave special tokens out of the text; the default")
    include_stop_str_in_output: bool | None = Field(None, description="leave the matched stop at the end of the text")

    @property
    def given_params(self) -> frozenset[str]:
        """The fields of sampling that the request brings."""
        return frozenset(self._given_sampling())

    def given_sampling(self) -> dict[str, Any]:
        """The arguments of `SamplingParams` that the request brings.

        Raises:
            RequestError: a value is out of its range.
        """
        return self._given_sampling() | {"logit_bias": _bias_by_token(self.logit_bias)}

    def _given_sampling(self) -> dict[str, Any]:
        names = [name for name in SamplingParams.__struct_fields__ if name in type(self).model_fields]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class SamplingBody(SamplingFields, StructuredFields, ABC):
    """Fields that completions and chat completions have in common. Those known to change the answer without being
    carried out are refused."""

    model_config = ConfigDict(json_schema_extra=tell_aliases)

    model: Text | None = Field(None, description="name of the served model, as /v1/models lists it")
    stream: bool | None = Field(None, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="only with stream")
    n: Whole | None = Field(None, ge=1, description="answers to generate; they share the prompt's memory; 1 by default")
    prompt_logprobs: Whole | None = Field(
        None,
        ge=ALL_TOKENS,
        le=MAX_WHOLE,
        description=f"log-probabilities of the prompt's tokens and of this many {MOST_LIKELY}",
    )
    logprob_token_ids: TokenIds | None = Field(
        None,
        description="only with logprobs: beside each token's own log-probability tell those of exactly these tokens in "
        "place of the most likely ones, however many are asked for",
    )
    echo: bool | None = Field(None, description="begin the answer with what it goes on from")
    add_special_tokens: bool | None = Field(
        None, description="put the model's own special tokens, such as BOS, around the prompt"
    )
    truncate_prompt_tokens: Whole | None = Field(
        None,
        ge=-1,
        le=MAX_WHOLE,
        description="keep so many tokens of the prompt; -1 is all that leave room for max_tokens",
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="where truncate_prompt_tokens cuts: left, the default, keeps the prompt's end"
    )
    return_token_ids: bool | None = Field(None, description="tell the token ids of prompt and answer")
    return_tokens_as_token_ids: bool | None = Field(None, description="name tokens token_id:N in logprobs")
    modalities: Annotated[list[str], FirstError()] | None = Field(None, description="only text")

    use_beam_search: bool | None = Field(
        None,
        description="search for the n likeliest answers with n (or best_of) beams; a stream gets them at the end",
    )
    best_of: Whole | None = Field(
        None, ge=1, description="beams of use_beam_search, n or more; else only the same as n"
    )
    length_penalty: float | None = Field(
        None,
        ge=-MAX_LENGTH_PENALTY,
        le=MAX_LENGTH_PENALTY,
        description="only with use_beam_search: above 0 favours longer answers; 1 by default",
    )
    early_stopping: bool | Literal["never"] | None = Field(
        None,
        description="only with use_beam_search: end once there are enough answers (true), once better ones are "
        'unlikely (false, the default), or impossible ("never")',
    )

    foreign: ClassVar[dict[str, Neutral]] = REFUSED
    """Fields that are refused by name; see `check_foreign`."""
    aliases: ClassVar[Mapping[str, Alias]] = ALIASES
    """Other servers' names of fields; see `own_fields`."""

    @property
    def num_answers(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def num_sequences(self) -> int:
        """Those that are generated for a prompt."""
        return max(self.num_answers, self.best_of or 1)

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_usage_always(self) -> bool:
        return self.wants_usage_chunk and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    def check_supported(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ApiError: the message names the field.
        """
        check_foreign(self.model_extra or {}, self.foreign)
        if self.modalities not in (None, ["text"]):
            raise unsupported("modalities", 'leave it out, or send ["text"]')
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options is for stream=true only", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise ApiError(400, "prompt_logprobs is for stream=false only", param="prompt_logprobs")
        if self.use_beam_search:
            self._check_beam_search()
            return
        if self.best_of not in (None, self.num_answers):
            raise unsupported("best_of", "send n alone, or use_beam_search with it")
        for name in ("length_penalty", "early_stopping"):
            if getattr(self, name) is not None:
                raise ApiError(400, f"{name} is for use_beam_search=true only", param=name)

    def check_named_tokens(self, tells_logprobs: bool) -> None:
        """Refuse `logprob_token_ids` where no log-probabilities are told.

        Raises:
            ApiError: the message names the field.
        """
        if self.logprob_token_ids and not tells_logprobs:
            raise ApiError(400, "logprob_token_ids needs logprobs: send that too", param="logprob_token_ids")

    def _check_beam_search(self) -> None:
        for name, harmless in DRAWS_NOTHING.items():
            value = getattr(self, name)
            if value is not None and value not in harmless:
                raise ApiError(400, f"{name} is for drawing tokens: leave it out with use_beam_search", param=name)
        for name in ("stop", "stop_regex"):
            if getattr(self, name):
                told = f"a beam search ends at tokens: send stop_token_ids in place of {name} with it"
                raise ApiError(400, told, param=name)
        if self.best_of is not None and self.best_of < self.num_answers:
            raise ApiError(400, f"best_of={self.best_of} beams are fewer than n={self.num_answers}", param="best_of")

    @abstractmethod
    def params(self) -> SamplingParams:
        """As the engine takes them.

        Raises:
            RequestError: a value is out of its range.
        """

    def sampling_params(self, *, max_tokens: int | None, logprobs: int | None, **others: Any) -> SamplingParams:
        """The fields that were given, as the engine takes them.

        Raises:
            RequestError: a value is out of its range.
        """
        given = self.given_sampling() | {"max_tokens": max_tokens, "logprobs": logprobs}
        asked = self.structured()
        given["structured_outputs"] = None if asked is None else asked.params
        named = self.logprob_token_ids or None
        given |= {"logprob_token_ids": named, "logprobs": logprobs if named is None else None}
        if self.use_beam_search:
            search = {name: getattr(self, name) for name in ("length_penalty", "early_stopping")}
            given["beams"] = Beams(
                width=self.num_sequences, **{name: value for name, value in search.items() if value is not None}
            )
        return SamplingParams(**(given | others))


def _bias_by_token(biases: dict[str, float] | None) -> dict[int, float] | None:
    if biases is None:
        return None
    for token, bias in biases.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise RequestError(f"logit_bias must map token ids to numbers, got the key {token[:20]!r}")
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise RequestError(f"logit_bias must be between -{MAX_BIAS} and {MAX_BIAS}, got {bias} for token {token}")
    return {int(token): bias for token, bias in biases.items()}
