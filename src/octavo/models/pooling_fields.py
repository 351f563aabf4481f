"""The fields of config.json, and what stands beside it, that say how a prompt becomes a vector or scores of classes."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from octavo.checkpoints.sentence_files import SentenceFiles
from octavo.errors import ModelError
from octavo.pooling import Activation, Pooling, PoolingKind

ACTIVATIONS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity", "Softmax": "softmax"}
"""By their classes in torch, as Sentence Transformers' cross-encoders name them."""
PROBLEMS: dict[str, Activation] = {
    "regression": "identity",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
}
"""By `problem_type`."""
KINDS: dict[str, PoolingKind] = {"avg": "mean", "cls": "cls", "last": "last"}
"""By the field `pooling` of NVIDIA's bidirectional LLaMA."""


Known = TypeVar("Known")


class _CrossEncoder(msgspec.Struct):
    activation_fn: str | None = None


class _Fields(msgspec.Struct):
    id2label: dict[str, str | int] | None = None
    num_labels: int | None = None
    problem_type: str | None = None
    sbert_ce_default_activation_function: str | None = None
    sentence_transformers: _CrossEncoder = msgspec.field(default_factory=_CrossEncoder)
    is_causal: bool | None = None
    use_bidirectional_attention: bool | None = None
    pooling: str | None = None


def read_pooling(
    raw: dict[str, Any],
    source: str,
    kind: PoolingKind,
    files: SentenceFiles | None,
    *,
    generates: bool,
    has_classes: bool,
) -> Pooling:
    """How a checkpoint wants its prompts pooled.

    Args:
        raw: its config.json under the names of `parse_config`.
        source: where it came from, for errors.
        kind: what the architecture does where nothing else is said.
        files: what Sentence Transformers' files say.
        generates: whether its head gives logits. A model that does not is there for what is pooled.
        has_classes: whether its head scores classes.

    Raises:
        ModelError: a field is of a wrong type, or of an unknown value; the message names it and `source`.
    """
    try:
        fields = msgspec.convert(raw, _Fields)
    except msgspec.ValidationError as error:
        raise ModelError(f"{source} does not describe how prompts are pooled: {error}") from error
    if fields.pooling is not None:
        kind = _known("pooling", fields.pooling, KINDS, source)
    if files is not None:
        kind = files.kind
    is_causal = fields.is_causal is not False and not fields.use_bidirectional_attention
    normalize, dense = (True, ()) if files is None else (files.normalize, files.dense)
    stated = Pooling(kind=kind, is_declared=not generates, dense=dense, normalize=normalize, is_causal=is_causal)
    if not has_classes:
        return stated
    labels = _labels(fields)
    return replace(stated, labels=labels, activation=_activation(fields, len(labels), source))


def _labels(fields: _Fields) -> tuple[str, ...]:
    """transformers' defaults: two, by their numbers."""
    names = fields.id2label or {}
    count = len(names) or fields.num_labels or 2
    return tuple(str(names.get(str(number), f"LABEL_{number}")) for number in range(count))


def _activation(fields: _Fields, num_labels: int, source: str) -> Activation:
    named = fields.sentence_transformers.activation_fn or fields.sbert_ce_default_activation_function
    if named is not None:
        return _known("activation_fn", named.rpartition(".")[2], ACTIVATIONS, source)
    if fields.problem_type is not None:
        return _known("problem_type", fields.problem_type, PROBLEMS, source)
    return "sigmoid" if num_labels == 1 else "softmax"


def _known(field: str, value: str, known: Mapping[str, Known], source: str) -> Known:
    if value not in known:
        raise ModelError(f"{source}: {field} {value!r:.80} is not known; known are {', '.join(known)}")
    return known[value]
