"""What a caller gets back of prompts that are pooled, under vLLM's names. A leaf: plain data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from octavo.outputs import RequestOutput
from octavo.pooling import numbers

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class PoolingOutput:
    """Numbers, whichever task they are of: `[n]` float32."""

    data: "torch.Tensor"

    @classmethod
    def of(cls, output: RequestOutput) -> Self:
        """Of a request that is over."""
        import torch  # who asks for a tensor has it

        return cls(torch.tensor(pooled_numbers(output), dtype=torch.float32))


@dataclass(slots=True)
class EmbeddingOutput:
    """A prompt's vector."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        return len(self.embedding)


@dataclass(slots=True)
class ClassificationOutput:
    """How likely each class is, by the classes' numbers."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(slots=True)
class ScoringOutput:
    """How well two texts go together."""

    score: float


Output = TypeVar("Output", PoolingOutput, EmbeddingOutput, ClassificationOutput, ScoringOutput)


@dataclass(slots=True)
class PoolingRequestOutput(Generic[Output]):
    """A prompt and what was pooled of it."""

    request_id: str
    outputs: Output
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True

    @classmethod
    def of(cls, output: RequestOutput, outputs: Output) -> Self:
        """Of a request that is over."""
        return cls(output.request_id, outputs, output.prompt_token_ids, output.num_cached_tokens)


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """Of `LLM.embed`."""


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """Of `LLM.classify`."""


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """Of `LLM.score`. Its token ids are those of the pair, or of both texts one after the other."""


def pooled_numbers(output: RequestOutput) -> list[float]:
    """The numbers of a request that is over."""
    return numbers(output.outputs[0].pooled or b"").tolist()
