"""What every layer is built with: the dtype, the device, the kernels and this process's shard of the model."""

from dataclasses import dataclass, field

import torch
from torch import nn

from octavo.config import Quantization
from octavo.kernels.interface import Kernels
from octavo.kernels.quantized import FORMATS, QuantizedWeight
from octavo.layers.parallel import TensorParallel


@dataclass(frozen=True, slots=True)
class ModelBuild:
    """How to build a model's modules. On the meta device they have shapes and take no memory."""

    dtype: torch.dtype
    device: torch.device
    kernels: Kernels
    tensor_parallel: TensorParallel = field(default_factory=TensorParallel)
    quantization: Quantization = "none"
    """int8 and fp8 keep the matrices that products read as `QuantizedWeight`s; none keeps them in `dtype`."""
    max_model_len: int | None = None
    """The longest sequence to be computed, in tokens: tables over positions end there. None is the model's own."""

    def parameter(self, *shape: int, dtype: torch.dtype | None = None) -> nn.Parameter:
        """An unfilled parameter, to be filled through a `Placement`; its dtype is the model's where none is given."""
        return nn.Parameter(torch.empty(shape, dtype=dtype or self.dtype, device=self.device), requires_grad=False)

    def weight(self, out_features: int, in_features: int) -> nn.Parameter | QuantizedWeight:
        """An unfilled matrix that products read."""
        if self.quantization == "none":
            return self.parameter(out_features, in_features)
        return QuantizedWeight(out_features, in_features, self.device, self.dtype, FORMATS[self.quantization])
