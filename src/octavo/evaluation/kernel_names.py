"""What a measurement of kernels can be asked for. Loads nothing."""

KINDS = ("product", "logits", "decode", "prefill", "norm", "activation", "copy")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
"""Of weights and of the KV."""
WEIGHT_PRECISIONS = (*PRECISIONS, "int4")
"""Of weights: int4 in groups of 32 inputs, multiplied as int8."""
