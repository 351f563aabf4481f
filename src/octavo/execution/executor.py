"""The seam between the engine and whatever runs a step: this process, others, another machine, or a cost model."""

from dataclasses import dataclass, field
from typing import Protocol

from octavo.execution.plan import Plan, StepOutput
from octavo.layer_groups import LayerGroups, one_group


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an executor has to offer, known once the model is loaded and the KV cache allocated."""

    num_blocks: int
    block_size: int
    layer_groups: LayerGroups = field(default_factory=lambda: one_group(1))
    """How the model's layers share block tables."""
    block_bytes: int
    """Bytes of one block, K and V of all layers, on all ranks together."""
    num_swap_blocks: int = 0
    """Blocks that the swap space holds."""
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What an executor has loaded, for people to read."""

    weight_bytes: int
    """On all ranks together."""
    dtype: str
    """Of weights and activations, without the torch."""
    kernels: str
    """Which kernels were chosen, and why."""


class Step(Protocol):
    """A step that has been submitted."""

    def result(self) -> StepOutput:
        """Wait for the step and return what it gave."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that was over when `submit` returned."""

    output: StepOutput

    def result(self) -> StepOutput:
        return self.output


class Executor(Protocol):
    """Runs plans in the order in which they are submitted."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def depth(self) -> int:
        """Steps that may be in flight at once: 1 where the model runs in this very process, 2 where a device works on
        its own."""
        ...

    def submit(self, plan: Plan) -> Step:
        """Begin a step; returns at once where the work is done elsewhere."""
        ...

    def close(self) -> None:
        """Let go of the model, the cache and any processes."""
        ...
