"""What steps and CUDA graphs take of a GPU's memory, guessed from a model's config without loading it."""

import torch

from octavo.config import EngineConfig
from octavo.execution.model_runner import SCORED_AT_ONCE
from octavo.kernels.batch import CONTEXT_CHUNK
from octavo.models.config import ModelConfig
from octavo.sampling_params import ALL_TOKENS

LIBRARY_BYTES = 192 * 2**20
"""Code of kernels, and what cuBLAS keeps for its products."""
LOGITS_COPIES = 4
"""Tensors of the size of the logits that sampling holds at once, in float32, beside the logits."""
PROMPT_LOGITS_COPIES = 3
"""Of a prompt's, which `Kernels.score` holds."""
ATTENTION_PARTS_BYTES = 128 * 2**20
"""The most that sums of attention take that chunks of a context leave to be merged: that of
`kernels/triton/attention.py`, which doesn't load where triton is not installed."""
FEW_TOKENS_ROWS = 16
"""New tokens x heads that share a KV head of such a row, at most."""
GRAPH_LAUNCHES_A_LAYER = 16
GRAPH_LAUNCH_BYTES = 4 * 2**10
"""What CUDA keeps of a captured launch: a guess, which Octavo has not measured. The memory that graphs work in is one
for all, and counts as the largest step's."""


def step_bytes(config: EngineConfig, model: ModelConfig, dtype: torch.dtype, max_model_len: int) -> int:
    """One rank's largest step beside the weights."""
    ranks, num_tokens, num_rows = config.tensor_parallel_size, config.max_num_batched_tokens, config.max_num_seqs
    queries = model.num_attention_heads * model.head_dim
    keys_and_values = 2 * model.num_key_value_heads * model.head_dim
    # At once at the most: a layer's input and residual, and what of it is the widest with what comes of that.
    attention = 2 * queries + keys_and_values
    feed_forward = 3 * model.intermediate_size
    activations = num_tokens * (3 * model.hidden_size + max(attention, feed_forward) // ranks) * dtype.itemsize
    chunks = -(-max_model_len // CONTEXT_CHUNK)
    few_tokens = max(1, FEW_TOKENS_ROWS * model.num_key_value_heads // model.num_attention_heads)
    sums = num_rows * few_tokens * chunks * (queries + 2 * model.num_attention_heads) * 4 // ranks
    parts = min(sums, ATTENTION_PARTS_BYTES)
    sampled = num_rows * model.vocab_size * (dtype.itemsize + 4 * LOGITS_COPIES)
    scored = min(SCORED_AT_ONCE, num_tokens) * model.vocab_size * (dtype.itemsize + 4 * PROMPT_LOGITS_COPIES)
    hidden = num_tokens * model.hidden_size * dtype.itemsize
    told = num_rows * 12 * (model.vocab_size if config.max_logprobs == ALL_TOKENS else config.max_logprobs)
    return LIBRARY_BYTES + max(activations + parts, hidden + max(sampled + told, scored))


def graph_bytes(config: EngineConfig, model: ModelConfig, dtype: torch.dtype, max_model_len: int) -> int:
    """Graphs of a decode: one for each of the batch sizes 1, 2, 4, 8, 16, 24 and so on up to `--max-num-seqs`, and each
    power of two of context chunks. Each keeps its launches and its result."""
    sizes = [1, 2, 4, *range(8, config.max_num_seqs + 8, 8)]
    num_lengths = 1 + (-(-max_model_len // CONTEXT_CHUNK) - 1).bit_length()
    launches = len(sizes) * model.num_hidden_layers * GRAPH_LAUNCHES_A_LAYER * GRAPH_LAUNCH_BYTES
    results: int = sum(sizes) * model.hidden_size * dtype.itemsize
    return num_lengths * (launches + results)
