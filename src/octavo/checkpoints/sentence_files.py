"""How the files that Sentence Transformers puts beside a checkpoint say its embeddings are made. Torch-free.

modules.json lists what a text goes through: the transformer, pooling, perhaps more. Each module has a folder, and its
own config.json there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from octavo.checkpoints.json_files import read_json, read_optional_object
from octavo.errors import ModelError
from octavo.pooling import Dense, DenseActivation, PoolingKind

MODULES = "modules.json"
DENSE_ACTIVATIONS: dict[str, DenseActivation] = {"Identity": "identity", "Tanh": "tanh"}
"""By their classes in torch."""
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""What is said of the transformer module, under whichever of its names; the first that is there is read."""
POOLING_MODES: dict[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
MODE_NAMES: dict[str, PoolingKind] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""The same, as newer versions write them: `pooling_mode`, one for all."""


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """What a folder's files say of its embeddings."""

    kind: PoolingKind
    normalize: bool
    """Whether an embedding is divided by its length."""
    dense: tuple[Dense, ...] = ()
    """What a pooled state goes through before that."""
    max_tokens: int | None = None
    """The longest text that it was made for."""


class _Module(msgspec.Struct):
    path: str
    type: str

    @property
    def name(self) -> str:
        """The class's, whatever module it is in."""
        return self.type.rpartition(".")[2]


class _Dense(msgspec.Struct):
    in_features: Annotated[int, msgspec.Meta(ge=1, le=2**24)]
    out_features: Annotated[int, msgspec.Meta(ge=1, le=2**24)]
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"


class _Transformer(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool = False


def read_sentence_files(folder: Path) -> SentenceFiles | None:
    """Read modules.json and the configs that it names; None where a folder has no such file, or one that pools nothing.

    Raises:
        ModelError: a file cannot be read, or asks for what Octavo does not do; the message names it and the field.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = read_json(folder / MODULES, list[_Module])
    names = [module.name for module in modules]
    if "Pooling" not in names:
        return None
    dense = [_read_dense(folder, module.path) for module in modules if module.name == "Dense"]
    behind = ["Dense"] * len(dense) + ["Normalize"] * ("Normalize" in names)
    if names != ["Transformer", "Pooling", *behind] or modules[0].path:
        told = ", ".join(f"{module.name} ({module.path or 'the folder itself'})" for module in modules)
        raise ModelError(
            f"{folder / MODULES} has the modules {told}; Octavo embeds by a Transformer in the folder itself, a "
            "Pooling and, behind it, Dense layers and a Normalize"
        )
    return SentenceFiles(
        kind=_pooling_kind(folder / modules[1].path / "config.json"),
        dense=tuple(dense),
        normalize="Normalize" in names,
        max_tokens=_read_transformer(folder).max_seq_length,
    )


def _read_transformer(folder: Path) -> _Transformer:
    path = next((folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()), None)
    if path is None:
        return _Transformer()
    found = read_json(path, _Transformer)
    if found.do_lower_case and not _lowers(folder):
        raise ModelError(
            f"{path} has do_lower_case, and the tokenizer does not lower texts: Octavo leaves them to the tokenizer"
        )
    return found


def _lowers(folder: Path) -> bool:
    """Whether tokenizer.json lowers texts itself."""
    normalizer = read_optional_object(folder / "tokenizer.json").get("normalizer") or {}
    parts: list[dict[str, Any]] = normalizer.get("normalizers") or [normalizer]
    return any(part.get("type") == "Lowercase" or part.get("lowercase") is True for part in parts)


def _read_dense(folder: Path, path: str) -> Dense:
    fields = read_json(folder / path / "config.json", _Dense)
    activation = DENSE_ACTIVATIONS.get(fields.activation_function.rpartition(".")[2])
    if activation is None:
        raise ModelError(
            f"{folder / path / 'config.json'} has activation_function {fields.activation_function!r:.80}; known are "
            f"{', '.join(DENSE_ACTIVATIONS)}"
        )
    return Dense(path, fields.in_features, fields.out_features, fields.bias, activation)


def _pooling_kind(path: Path) -> PoolingKind:
    fields = read_json(path, dict[str, Any])
    if "pooling_mode" in fields:
        modes, known = [str(fields["pooling_mode"])], MODE_NAMES
    else:
        modes = [name for name, on in fields.items() if name.startswith("pooling_mode_") and on is True]
        known = POOLING_MODES
    if len(modes) != 1 or modes[0] not in known:
        told = ", ".join(modes) or "no pooling mode"
        raise ModelError(f"{path} asks for {told}; Octavo pools by one of {', '.join(known)}")
    return known[modes[0]]
