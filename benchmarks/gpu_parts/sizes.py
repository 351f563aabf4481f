"""How large everything is: on a GPU, and as a toy in the interpreter."""

from dataclasses import dataclass, field
from typing import Any

import torch

LLAMA_3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 128001,
    "bos_token_id": 128000,
}
LLAMA_2_13B: dict[str, Any] = {
    **LLAMA_3_8B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
OPT_13B: dict[str, Any] = {
    "architectures": ["OPTForCausalLM"],
    "hidden_size": 5120,
    "ffn_dim": 20480,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 5120,
    "do_layer_norm_before": True,
    "activation_function": "relu",
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "eos_token_id": 2,
    "bos_token_id": 2,
}
SMALL_LLAMA: dict[str, Any] = {
    **LLAMA_3_8B,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 2000,
    "max_position_embeddings": 2048,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
"""For checks: its tokens can be computed on a CPU as well."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The real ones; LLaMA-3-8B's heads and widths for kernels."""

    dtype: torch.dtype = torch.bfloat16
    check_dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16, torch.float32)
    check_head_dims: tuple[int, ...] = (128, 64, 80, 256)
    check_rows: tuple[tuple[int, int], ...] = (
        (1, 1), (17, 1), (256, 1), (257, 1), (1000, 1), (900, 4), (300, 5), (512, 512), (700, 100),
    )  # fmt: skip
    """(context, new tokens)."""
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    hidden_size: int = 4096
    inner_size: int = 14336
    block_size: int = 16
    copied_bytes: int = 4 << 30
    matrix_size: int = 8192
    scattered_kib: tuple[int, ...] = (4, 8, 16, 32, 64)
    repeats: int = 20
    decode_cases: tuple[tuple[int, int], ...] = ((64, 2048), (1, 2048), (8, 2048), (256, 2048), (1, 32768), (64, 200))
    """(rows, context)."""
    sharing_cases: tuple[tuple[int, int], ...] = ((4, 2048), (16, 2048), (64, 2048))
    """(rows, first tokens that they share)."""
    prefill_cases: tuple[tuple[tuple[int, int], ...], ...] = (
        ((2048, 2048),) * 4,
        ((8192, 8192),),
        ((8192, 512),),
        ((1024, 1024), *((2048, 1),) * 63),
    )
    """Rows of (context, new tokens)."""
    flash_cases: tuple[tuple[int, int], ...] = ((4, 2048), (1, 8192))
    operation_tokens: tuple[int, ...] = (64, 4096)
    copied_blocks: int = 512
    llama_3_8b: dict[str, Any] = field(default_factory=lambda: LLAMA_3_8B)
    llama_2_13b: dict[str, Any] = field(default_factory=lambda: LLAMA_2_13B)
    opt_13b: dict[str, Any] = field(default_factory=lambda: OPT_13B)
    small: dict[str, Any] = field(default_factory=lambda: SMALL_LLAMA)
    small_dtypes: tuple[str, ...] = ("float32", "bfloat16")
    check_prompts: tuple[int, ...] = (1, 15, 16, 17, 40, 255, 256, 257, 600, 33, 90, 7)
    """Tokens of each."""
    check_outputs: int = 24
    step_cases: tuple[tuple[int, int], ...] = ((1, 2048), (8, 2048), (64, 2048), (256, 1024))
    """(rows, context) of decode steps."""
    step_repeats: int = 20
    prefill_prompts: tuple[tuple[int, int], ...] = ((16, 2048), (4, 8000), (256, 128))
    """(prompts, tokens of each)."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_cache_memory: str | None = None
    """None is what `--gpu-memory-utilization` leaves."""
    num_requests: int = 512
    paper_pool_bytes: int = 12 * 10**9
    """For KV, in the paper's machine beside OPT-13B."""
    length_scale: float = 1.0
    """Of requests like ShareGPT's."""
    window_s: float = 25.0
    """In which a backlog's throughput is read."""
    warm_up_s: float = 4.0
    swap_block_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    swap_tokens: int = 256


_TOY_LLAMA = {
    **SMALL_LLAMA,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "torch_dtype": "float16",
}
_TOY_OPT = {
    **OPT_13B,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 32,
}

TOY = Sizes(
    dtype=torch.float16,
    check_dtypes=(torch.float16,),
    check_head_dims=(16,),
    check_rows=((1, 1), (17, 1), (33, 3), (40, 40)),
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    hidden_size=32,
    inner_size=48,
    copied_bytes=1 << 16,
    matrix_size=32,
    scattered_kib=(4,),
    repeats=1,
    decode_cases=((2, 20),),
    sharing_cases=((2, 256),),
    prefill_cases=(((24, 24), (20, 1)),),
    flash_cases=((1, 16),),
    operation_tokens=(2,),
    copied_blocks=2,
    llama_3_8b=_TOY_LLAMA,
    llama_2_13b=_TOY_LLAMA,
    opt_13b=_TOY_OPT,
    small=_TOY_LLAMA,
    small_dtypes=("float32",),
    check_prompts=(1, 17, 20),
    check_outputs=3,
    step_cases=((1, 20), (2, 20)),
    step_repeats=1,
    prefill_prompts=((2, 20),),
    max_num_seqs=8,
    max_num_batched_tokens=24,
    kv_cache_memory="1MiB",
    num_requests=4,
    paper_pool_bytes=1 << 16,
    length_scale=0.05,
    window_s=2.0,
    warm_up_s=0.0,
    swap_block_sizes=(16, 32),
    swap_tokens=40,
)
