"""What every layer is built with: the dtype, the device, the kernels and this process's shard of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from octavo.config import Quantization
from octavo.kernels.grouped import GroupedForm, GroupedWeight
from octavo.kernels.interface import Kernels
from octavo.kernels.quantized import FORMATS, INT8, QuantizedWeight
from octavo.kernels.quantizing import INT4
from octavo.layers.parallel import TensorParallel


@dataclass(frozen=True, slots=True)
class ModelBuild:
    """How to build a model's modules. On the meta device they have shapes and take no memory."""

    dtype: torch.dtype
    device: torch.device
    kernels: Kernels
    tensor_parallel: TensorParallel = field(default_factory=TensorParallel)
    quantization: Quantization = "none"
    """int8 and fp8 keep the matrices that products read as `QuantizedWeight`s, int4 as `GroupedWeight`s; none and auto
    keep them in `dtype`, but for those in `forms`."""
    max_model_len: int | None = None
    """The longest sequence to be computed, in tokens: tables over positions end there. None is the model's own."""
    forms: Mapping[str, GroupedForm] = field(default_factory=dict)
    """Of the matrices that stay as the checkpoint has them, by their Hugging Face names."""

    def on_meta(self) -> "ModelBuild":
        """The same, to learn shapes from."""
        return replace(self, device=torch.device("meta"))

    def told_weights(self) -> str:
        """Which weights have fewer bits: `int8`, or what of a checkpoint's is kept, `4-bit+8-bit`; empty for none."""
        if self.quantization not in ("none", "auto"):
            return self.quantization
        return "+".join(f"{bits}-bit" for bits in sorted({form.bits for form in self.forms.values()}))

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        """An unfilled parameter, to be filled through a `Placement`; its dtype is the model's where none is given."""
        return nn.Parameter(torch.empty(shape, dtype=dtype or self.dtype, device=self.device), requires_grad=False)

    def weight(self, out_features: int, in_features: int) -> nn.Parameter | QuantizedWeight | GroupedWeight:
        """An unfilled matrix that products read."""
        if self.quantization == "int4":
            return GroupedWeight(out_features, in_features, INT4, self.device, self.dtype)
        return self.table(out_features, in_features)

    def table(self, out_features: int, in_features: int) -> nn.Parameter | QuantizedWeight:
        """An unfilled matrix of a vector a token, that a head reads: of 8 bits where others have 4."""
        if self.quantization in ("none", "auto"):
            return self.parameter(out_features, in_features)
        how = FORMATS.get(self.quantization, INT8)
        return QuantizedWeight(out_features, in_features, self.device, self.dtype, how)
