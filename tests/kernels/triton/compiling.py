"""Compiles Triton kernels for an H100, as they are launched, on a machine without a GPU.

Run as a program, with arguments like bfloat16:128 or bfloat16:128:int8 (dtype, head size, dtype of the KV cache), it
prints a line a kernel. It must not run in Triton's interpreter, as the other tests do.
"""

import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.triton import activation, attention, kv_write, norm
from octavo.kernels.triton import copy as copy_kernel
from octavo.kernels.triton.copy import copy_blocks
from octavo.kernels.triton.kv_write import write_kv
from octavo.layer_groups import Window, one_group

H100 = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass
class Compiler:
    """Stands in for a kernel: a launch compiles it, for its arguments, and runs nothing."""

    kernel: Any
    compiled: list[Any] = field(default_factory=list)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(
            *arguments: Any, num_warps: int, num_stages: int = 3, maxnreg: int | None = None, **constants: Any
        ) -> None:
            names = self.kernel.arg_names
            by_name = dict(zip(names, arguments, strict=False)) | constants
            signature, constexprs, attributes = {}, {}, {}
            for place, name in enumerate(names):
                argument = by_name[name]
                is_given = place < len(arguments) and argument is not None
                if not is_given or (isinstance(argument, int) and argument == 1):
                    signature[name], constexprs[(place,)] = "constexpr", argument
                    continue
                if isinstance(argument, torch.Tensor):
                    signature[name] = TYPES[argument.dtype]
                elif isinstance(argument, float):
                    signature[name] = "fp32"
                else:
                    signature[name] = "i32" if abs(argument) < 2**31 else "i64"
                if isinstance(argument, torch.Tensor) or (isinstance(argument, int) and argument % 16 == 0):
                    attributes[(place,)] = [["tt.divisibility", 16]]
            source = ASTSource(self.kernel, signature, constexprs, attributes)
            options = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": maxnreg}
            self.compiled.append(triton.compile(source, target=H100, options=options))

        return launch


def registers_and_spills(kernel: Any) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, that the compiled code takes."""
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        told = subprocess.run([program, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None
    return int(found[1]), int(found[2])


def compile_all(dtype: torch.dtype, head_dim: int, cache_dtype: torch.dtype) -> None:
    """Launch everything once for decode and once for prefill, on tensors that have no memory."""
    shape = CacheShape(64, one_group(32), 16, 8, head_dim, cache_dtype)
    cache = KVCache(shape, torch.empty(64, shape.block_bytes, dtype=torch.uint8, device="meta"))
    cos_sin = torch.empty(4096, head_dim, device="meta")
    spec = AttentionSpec(3, 32, 8, head_dim, head_dim**-0.5, cos_sin=cos_sin)
    windowed = dataclasses.replace(spec, kind=Window(1024), softcap=50.0)
    for num_new in (1, 500):
        num_tokens = 4 * num_new
        sizes = ((num_tokens,), (num_tokens,), (1, num_tokens), (5,), (4,), (4,), (1, 4, 128))
        arrays: list[Any] = [_indices(*each) for each in sizes]
        batch = RaggedBatch(*arrays)
        query = write_kv(torch.empty(num_tokens, 48 * head_dim, dtype=dtype, device="meta"), cache, batch, spec)
        for each in (spec, windowed):
            attention.paged_attention(query, cache, batch, each, BatchExtent(2048, num_new))
        if num_new == 1:
            sharing = dataclasses.replace(batch, shared=_indices(4))
            for longest in (2048, 160_000):
                extent = BatchExtent(longest, 1, 1, attention.LEAST_SHARED)
                attention.paged_attention(query, cache, sharing, spec, extent)
    hidden = torch.empty(4, 4096, dtype=dtype, device="meta")
    norm.rms_norm(hidden, torch.empty(4096, dtype=dtype, device="meta"), 1e-5, hidden)
    activation.activation_and_mul(hidden, "silu")
    copy_blocks(cache, cache, _indices(4), _indices(4))


def _indices(*sizes: int) -> torch.Tensor:
    return torch.empty(sizes, dtype=torch.int64, device="meta")


def main() -> None:
    modules = (
        (attention, "attend"),
        (attention, "merge_chunks"),
        (kv_write, "_write_heads"),
        (norm, "_rms_norm"),
        (activation, "_activation_and_mul"),
        (copy_kernel, "_copy"),
    )
    for case in sys.argv[1:]:
        dtype_name, head_dim, *rest = case.split(":")
        compilers = []
        for module, name in modules:
            kernel = getattr(module, name)
            compilers.append((name, Compiler(kernel.kernel if isinstance(kernel, Compiler) else kernel)))
            setattr(module, name, compilers[-1][1])
        dtype = getattr(torch, dtype_name)
        compile_all(dtype, int(head_dim), getattr(torch, rest[0]) if rest else dtype)
        for name, compiler in compilers:
            for kernel in compiler.compiled:
                registers, stack = registers_and_spills(kernel)
                figures = f"registers {registers} stack {stack} shared {kernel.metadata.shared}"
                print(f"{case} {name} {figures}")


if __name__ == "__main__":
    main()
