"""What is made of a prompt instead of an answer: one vector, or the scores of classes. A leaf: plain data, checked when
made, and the same on both sides of a process boundary."""

import copy
import math
import sys
from array import array
from operator import mul
from typing import Any, ClassVar, Literal, Self

import msgspec

from octavo.errors import RequestError
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.vllm.keywords import POOLING, Parameters

PoolingKind = Literal["mean", "last", "cls"]
"""Of the last hidden states of a prompt's tokens: their mean, that of the last token, or that of the first."""
PoolingTask = Literal["embed", "classify", "score"]
"""A vector; the scores of the classes that the model's head tells apart; or the share that each of a few tokens has in
what a language model would say next."""
Activation = Literal["softmax", "sigmoid", "identity"]

DenseActivation = Literal["identity", "tanh"]

NOTHING_SAMPLED = SamplingParams(temperature=0, max_tokens=1)
"""The parameters of a request that pools: it is over at once, as if it had one token to give."""


class Dense(msgspec.Struct, frozen=True):
    """A layer that a pooled state goes through: a product, and its activation."""

    folder: str
    """Where its tensors `linear.weight` and `linear.bias` are, in the checkpoint's folder."""
    in_features: int
    out_features: int
    has_bias: bool
    activation: DenseActivation


class Pooling(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's hidden states become one vector, and what its head makes of that: as the checkpoint says.

    It stands in `ModelConfig.pooling`. A model with `labels` has a method `classify`: pooled states `[n, hidden_size]`
    in float32 -> the classes' logits `[n, num_labels]`.
    """

    kind: PoolingKind = "last"
    is_declared: bool = False
    """The checkpoint says how it pools: it was made to embed, and scores are the likeness of embeddings."""
    dense: tuple[Dense, ...] = ()
    """What makes an embedding of a pooled state, in this order; with none the state is it. A model has a method `embed`
    for that: `[n, hidden_size]` -> `[n, width]`."""
    normalize: bool = True
    """An embedding is divided by its length, unless a request wants it otherwise."""
    is_causal: bool = True
    """A token's state depends on no later token, so a prompt can be computed in pieces, and begin with found blocks."""
    labels: tuple[str, ...] = ()
    """The classes of the model's head, by their numbers; none without a head."""
    activation: Activation = "softmax"
    """What makes probabilities of the classes' logits. With one label it is sigmoid."""

    def width(self, hidden_size: int) -> int:
        """Numbers of a whole embedding."""
        return self.dense[-1].out_features if self.dense else hidden_size


class PoolingParams(msgspec.Struct, kw_only=True, omit_defaults=True, metaclass=Parameters):
    """What a request asks of pooling. Names are vLLM's. None is as the model says.

    Raises:
        RequestError: a value is outside its range; the message names the field.
    """

    foreign: ClassVar = POOLING
    """vLLM's keywords that are no fields."""

    task: PoolingTask | None = None
    """For `LLMEngine`, `AsyncLLM` and `LLM.encode`; the calls that are named after a task have their own."""
    dimensions: int | None = None
    """Of an embedding: its first so many numbers, normalised again (Kusupati et al., Matryoshka representation
    learning, 2022)."""
    normalize: bool | None = None
    """Of an embedding: divide it by its length."""
    use_activation: bool | None = None
    """Of classes and scores: probabilities, the default, or logits as they are. Of an embedding: as `normalize`."""
    truncate_prompt_tokens: int | None = None
    """Keep so many tokens of the prompt's end; -1 is as many as the model takes."""
    label_token_ids: list[int] | None = None
    """Of task `score`: the tokens whose logits behind the prompt are compared."""
    output_kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY
    """There is one output, whole."""

    def __post_init__(self) -> None:
        tasks = PoolingTask.__args__  # type: ignore[attr-defined]
        _check(self.task is None or self.task in tasks, "task", f"one of {', '.join(tasks)}", self.task)
        _check(_is_whole(self.dimensions, 1), "dimensions", "a whole number of at least 1", self.dimensions)
        _check(
            _is_whole(self.truncate_prompt_tokens, -1) and self.truncate_prompt_tokens != 0,
            "truncate_prompt_tokens",
            "a whole number of at least 1, or -1",
            self.truncate_prompt_tokens,
        )
        for field in ("normalize", "use_activation"):
            value = getattr(self, field)
            _check(value is None or isinstance(value, bool), field, "True or False", value)
        ids = self.label_token_ids
        _check(
            ids is None or (isinstance(ids, list) and len(ids) > 1 and all(_is_whole(i, 0) for i in ids)),
            "label_token_ids",
            "a list of two token ids or more",
            ids,
        )

    def clone(self) -> Self:
        """A copy that shares nothing with this one.

        Raises:
            RequestError: a field has been set to what it cannot be.
        """
        return copy.deepcopy(self)


def _is_whole(value: Any, low: int) -> bool:
    """None, or a whole number of 32 bits from `low` on."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31)


def _check(good: bool, field: str, wanted: str, value: Any) -> None:
    if not good:
        raise RequestError(f"{field} must be {wanted}, got {value!r:.100}")


def likeness(one: bytes, other: bytes) -> float:
    """The cosine of the angle between two vectors that were pooled; 0 where one of them has no length."""
    a, b = numbers(one), numbers(other)
    lengths = math.sqrt(sum(map(mul, a, a)) * sum(map(mul, b, b)))
    return sum(map(mul, a, b)) / lengths if lengths else 0.0


def numbers(pooled: bytes) -> "array[float]":
    """Numbers that were pooled: they travel as float32, the lowest byte first."""
    read = array("f", pooled)
    if sys.byteorder == "big":
        read.byteswap()
    return read
