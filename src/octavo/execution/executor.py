"""The seam between the engine and whatever runs a step: this process, others, another machine, or a cost model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

from octavo.execution.plan import NO_ADAPTER, Plan, StepOutput, Task
from octavo.layer_groups import LayerGroups, one_group
from octavo.pooling import Pooling
from octavo.structured_outputs import Grammar, ReasoningSection

if TYPE_CHECKING:
    from concurrent.futures import Future


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a row may want of an executor."""

    tasks: frozenset[Task] = frozenset({"generate"})
    adapters: tuple[str, ...] = ()
    """The names of adapters that are loaded, by their numbers, from 1 on."""
    grammars: frozenset[str] = frozenset()
    """Kinds of grammars."""
    pooling: Pooling = field(default_factory=Pooling)
    """How prompts are pooled, where a task does so."""
    embedding_width: int = 0
    """Numbers of a whole embedding."""
    reasoning: bool = False
    """It follows reasoning sections."""

    def adapter_number(self, name: str | None) -> int:
        """How plans call an adapter that is loaded; None is none."""
        return NO_ADAPTER if name is None else 1 + self.adapters.index(name)


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
    max_drafts: int = 0
    """Tokens that it guesses for a row after a step, at most."""
    foretells: bool = False
    """It foretells the tokens that a row's grammar forces, as guesses."""
    eos_token_ids: frozenset[int] = frozenset()
    capabilities: Capabilities = field(default_factory=Capabilities)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What an executor has loaded, for people to read."""

    weight_bytes: int
    """On all ranks together."""
    dtype: str
    """Of weights and activations, without the torch."""
    weights: str = ""
    """Of fewer bits: which; empty where all are of `dtype`."""
    kernels: str
    """Which kernels were chosen, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionTimes:
    """Seconds that an executor has spent on steps since it was made; those of rank 0 where there are several."""

    parts_s: Mapping[str, float]
    """By what a step does: `prepare`, `move`, `forward`, `logits`, `sample`, as far as it does that; and
    `wait`, for a device that works beside the host."""
    operations_s: Mapping[str, float]
    """Of `forward`, by operation; empty where the kernels do not tell."""


@dataclass(frozen=True, slots=True)
class PendingOutput:
    """The output of a step that has been submitted."""

    result: Callable[[], StepOutput]
    """Waits for the step and returns what it gave."""
    is_over: Callable[[], bool] = lambda: True
    """Whether `result` has nothing to wait for, as far as is known here."""

    @classmethod
    def ready(cls, output: StepOutput) -> Self:
        """Of a step that is over."""
        return cls(lambda: output)


class Executor(Protocol):
    """Runs plans in the order in which they are submitted."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def loaded(self) -> LoadedModel: ...

    @property
    def depth(self) -> int:
        """Steps that may be in flight at once."""
        ...

    @property
    def sockets(self) -> Sequence[int]:
        """File descriptors to wait for while no step runs: one becomes readable where a process that steps need has
        ended, and then `check` raises. None where steps run in this very process."""
        ...

    def prepare(self, wanted: Grammar | ReasoningSection) -> "Future[Any]":
        """Begin to compile a grammar of a kind that it knows, or to look for a section's marks among the model's
        tokens, beside the steps. A row that has it before that is over waits where it is sampled. What the grammar
        itself fails of is the row's to hear."""
        ...

    def check(self) -> None:
        """Hear what has happened between two steps.

        Raises:
            EngineError: no step can run any more; the message says why.
        """
        ...

    def times(self) -> ExecutionTimes:
        """Where the time of all steps so far has gone. Nothing else may be in flight.

        Raises:
            EngineError: as for `check`.
        """
        ...

    def submit(self, plan: Plan) -> PendingOutput:
        """Begin a step; returns at once where the work is done elsewhere."""
        ...

    def close(self) -> None:
        """Let go of the model, the cache and any processes."""
        ...
