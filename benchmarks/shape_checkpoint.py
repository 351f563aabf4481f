#!/usr/bin/env python3
"""The random weights of a benchmark's shape as a checkpoint, for Octavo and for the peers (../shared/peers).

    python benchmarks/shape_checkpoint.py llama-1b ~/.cache/octavo-peers/llama-1b
    python benchmarks/peers.py work.json --checkpoint ~/.cache/octavo-peers/llama-1b

The folder gets hf (bfloat16 safetensors, smollm2's tokenizer), ov-int8 and ov-int4 (by optimum-intel), and Q8_0.gguf,
Q4_0.gguf and Q4_K_M.gguf (by ggml's own quantizers, out of the package xllamacpp). The weights are those of `--shape`.
Forms that are there already are kept; those whose peer is not installed are left out.
"""

import argparse
import ctypes
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import LlamaFileType
from safetensors import safe_open

from octavo.checkpoints.dummy import DummyTensors
from octavo.checkpoints.locate import Checkpoint, locate
from octavo.evaluation.shapes import SHAPES, TOKENIZER
from octavo.kernels.reference import ReferenceKernels
from octavo.layers.build import ModelBuild
from octavo.models.loader import read_config
from octavo.models.registry import build_model

HOME = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache" / "octavo-peers"))
GGUF_KINDS = {
    "Q8_0": (Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (Kind.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "Q4_K_M": (Kind.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
}
OPENVINO_FORMS = {"ov-int8": "int8", "ov-int4": "int4"}
FORMS = ("hf", *OPENVINO_FORMS, *GGUF_KINDS)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path, help="where the checkpoint goes, a folder for each form")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    hugging_face = folder / "hf"
    once(hugging_face, lambda target: write_hugging_face(arguments.shape, arguments.seed, target))
    for form in arguments.forms:
        if form in OPENVINO_FORMS:
            once(folder / form, lambda target, form=form: export_openvino(hugging_face, OPENVINO_FORMS[form], target))
        elif form in GGUF_KINDS:
            once(folder / f"{form}.gguf", lambda target, form=form: write_gguf(hugging_face, form, target))


def once(target: Path, make: Callable[[Path], None]) -> None:
    """Make a form, under another name until it is whole, unless it is there."""
    if target.exists():
        print(f"{target} is there", file=sys.stderr)
        return
    part = target.with_name(f"part-{target.name}")
    try:
        make(part)
    except FileNotFoundError as error:
        print(f"{target} is left out: {error}", file=sys.stderr)
        return
    part.rename(target)
    print(f"{target} is made", file=sys.stderr, flush=True)


def write_hugging_face(shape: str, seed: int, folder: Path) -> None:
    """config.json, model.safetensors in bfloat16, and smollm2's tokenizer as the peers' setup has it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape], indent=1) + "\n")
    for name in TOKENIZER_FILES:
        if (HOME / "smollm2-hf" / name).exists():
            shutil.copy(HOME / "smollm2-hf" / name, folder)
    build = ModelBuild(torch.bfloat16, torch.device("meta"), ReferenceKernels())
    model = build_model(read_config(Checkpoint(folder, "folder")), build)
    shapes = {name: parts[0].shape for name, parts in model.placements().items()}
    source = DummyTensors(shapes, seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in shapes.items():
        start, end = end, end + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, size in shapes.items():
            for _, rows in source.slices(name, range(size[0])):
                file.write(rows.to(torch.bfloat16).contiguous().view(torch.int16).numpy().data)


def export_openvino(hugging_face: Path, weights: str, target: Path) -> None:
    """As the peers' setup exports smollm2."""
    command = [str(HOME / "ovexport" / "bin" / "optimum-cli"), "export", "openvino", "-m", str(hugging_face)]
    subprocess.run(
        [*command, "--task", "text-generation-with-past", "--weight-format", weights, str(target)], check=True
    )


def write_gguf(hugging_face: Path, form: str, target: Path) -> None:
    """A GGUF file as llama.cpp's converter and quantizer would make it of the folder."""
    kind, file_type = GGUF_KINDS[form]
    quantizer = Quantizer()
    config = json.loads((hugging_face / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "llama", use_temp_file=True)
    write_fields(writer, config, file_type)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    with safe_open(hugging_face / "model.safetensors", framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (safe_open is not a dict)
            values = interleaved(name, stored.get_tensor(name), config)
            own = str(names.get_name(name, try_suffixes=(".weight",)))
            if values.ndim == 1:
                writer.add_tensor(own, values.float().numpy())
                continue
            chosen = kind_of(own, kind, config) if form == "Q4_K_M" else kind
            writer.add_tensor(own, quantizer.quantize(values, chosen), raw_dtype=chosen)
    if "rope_scaling" in config:
        writer.add_tensor("rope_freqs.weight", rotary_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_fields(writer: gguf.GGUFWriter, config: dict[str, Any], file_type: LlamaFileType) -> None:
    """The model's shape, and smollm2's vocabulary, filled up where the model's is larger."""
    writer.add_file_type(file_type)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    for name, value in gguf.GGUFReader(locate(TOKENIZER).path).fields.items():
        if not name.startswith("tokenizer."):
            continue
        contents = value.contents()
        is_array = value.types[0] == gguf.GGUFValueType.ARRAY
        if name == "tokenizer.ggml.tokens":
            contents = [*contents, *(f"<|unused_{i}|>" for i in range(len(contents), config["vocab_size"]))]
        elif name == "tokenizer.ggml.token_type":
            contents = [*contents, *[gguf.TokenType.UNUSED] * (config["vocab_size"] - len(contents))]
        writer.add_key_value(name, contents, value.types[0], value.types[-1] if is_array else None)


def interleaved(name: str, values: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Query and key heads with the halves of their rows interleaved, as llama.cpp rotates them; all else as it is."""
    if ".q_proj." not in name and ".k_proj." not in name:
        return values
    half = config["head_dim"] // 2
    return values.unflatten(0, (-1, 2, half)).transpose(1, 2).reshape(values.shape)


def kind_of(name: str, kind: Kind, config: dict[str, Any]) -> Kind:
    """What llama.cpp stores a matrix as in a file of Q4_K_M: more bits for the head, and in some layers for values
    and the last projection."""
    is_head = name == "output.weight" or (name == "token_embd.weight" and config["tie_word_embeddings"])
    if is_head:
        return Kind.Q6_K
    if not name.endswith(("attn_v.weight", "ffn_down.weight")):
        return kind
    layer, eighth = int(name.split(".")[1]), config["num_hidden_layers"] // 8
    has_more = layer < eighth or layer >= 7 * config["num_hidden_layers"] // 8 or (layer - eighth) % 3 == 2
    return Kind.Q6_K if has_more else kind


def rotary_factors(config: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What llama.cpp divides LLaMA 3's rotary frequencies by (`rope_type` llama3)."""
    scaling, dim = config["rope_scaling"], config["head_dim"]
    waves = 2 * math.pi * config["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    turns = scaling["original_max_position_embeddings"] / waves
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


class Quantizer:
    """ggml's own, called in the library of the package xllamacpp."""

    def __init__(self) -> None:
        libraries = list((HOME / "llamacpp" / "lib").glob("python*/site-packages/xllamacpp/xllamacpp*.so"))
        if not libraries:
            raise FileNotFoundError(f"xllamacpp is not installed in {HOME / 'llamacpp'}")
        self._chunk = ctypes.CDLL(str(libraries[0])).ggml_quantize_chunk
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
        self._chunk.restype = ctypes.c_size_t

    def quantize(self, values: torch.Tensor, kind: Kind) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`[rows, columns]` -> `[rows, bytes of a row]`."""
        num_rows, num_columns = values.shape
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        out = np.empty((num_rows, num_columns // block_size * block_bytes), np.uint8)

        def part(rows: range) -> None:
            wide = values[rows.start : rows.stop].to(torch.float32).contiguous()
            at = out[rows.start :].ctypes.data
            self._chunk(kind.value, wide.data_ptr(), at, 0, len(rows), num_columns, None)

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(part, pieces(num_rows)))
        return out


def pieces(num_rows: int, size: int = 256) -> Iterator[range]:
    for start in range(0, num_rows, size):
        yield range(start, min(num_rows, start + size))


if __name__ == "__main__":
    main()
