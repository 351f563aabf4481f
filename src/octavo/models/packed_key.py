"""What packed weights depend on, as a key: a file that was written for another one is of no use."""

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import octavo
from octavo.checkpoints.locate import Checkpoint
from octavo.checkpoints.source import TensorSource
from octavo.layers.build import ModelBuild
from octavo.models.config import ModelConfig

NUM_SAMPLES = 1024
"""Places of a file whose bytes are hashed. Where it is replaced, its size and times may stay as they were: container
images set all times alike. Other weights of the same model differ in every matrix that was trained."""
SAMPLE_BYTES = 4096
MAKERS = ("checkpoints", "kernels", "layers", "models")
"""The packages whose code makes packed weights of files."""


def packed_file_name(checkpoint: Checkpoint | None, config: ModelConfig, build: ModelBuild) -> str:
    """The name of the file for a checkpoint's weights in the form of a build. One that is written anew, for files that
    have changed, takes the place of the old one."""
    where = repr(config) if checkpoint is None else str(checkpoint.path.resolve())
    stem = "dummy" if checkpoint is None else re.sub(r"[^\w.-]", "_", checkpoint.path.resolve().stem)[:64]
    return f"{stem}-{_digest([where, *_form(build)])[:16]}.packed"


def packed_key(
    checkpoint: Checkpoint | None, source: TensorSource, config: ModelConfig, build: ModelBuild, seed: int
) -> str:
    """Differs with the content of the files, the model's config, the form of the weights and the code that packs them.

    Args:
        checkpoint: where the weights are; None for dummy weights.
        source: its tensors.
        seed: of dummy weights.
    """
    form = [*_form(build), *(f"{name} {form}" for name, form in sorted(build.forms.items()))]
    return _digest([*form, repr(config), _code_digest(), *_origin(checkpoint, source, seed)])


def _form(build: ModelBuild) -> list[str]:
    ranks = build.tensor_parallel
    form = (build.kernels.packed_form, build.dtype, build.quantization, ranks.rank, ranks.size)
    return [str(part) for part in form]


def _origin(checkpoint: Checkpoint | None, source: TensorSource, seed: int) -> list[str]:
    if checkpoint is None:
        return [f"dummy {seed}"]
    files = {Path(source.file(name)) for name in source.names()}
    if checkpoint.format == "gguf":
        files |= set(checkpoint.pieces)
    return [_file_digest(path) for path in sorted(files)]


def _file_digest(path: Path) -> str:
    """Of a file's size, the time of its last change, and samples of its content, the first and the last bytes in."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        last = max(0, status.st_size - SAMPLE_BYTES)
        for start in sorted({last * number // (NUM_SAMPLES - 1) for number in range(NUM_SAMPLES)}):
            digest.update(os.pread(file.fileno(), SAMPLE_BYTES, start))
    return digest.hexdigest()


@cache
def _code_digest() -> str:
    root = Path(octavo.__file__).parent
    sources = sorted(path for name in MAKERS for path in (root / name).rglob("*.py"))
    return _digest([*(path.read_text() for path in sources), *_extension()])


def _extension() -> list[str]:
    from octavo.kernels import _cpu

    return [hashlib.sha256(Path(str(_cpu.__file__)).read_bytes()).hexdigest()]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
