"""Octavo serves large language models from a paged key-value cache."""

import importlib
from typing import TYPE_CHECKING, Any

from octavo.errors import OctavoError
from octavo.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from octavo.pooling import PoolingParams
from octavo.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from octavo.structured_outputs import GuidedDecodingParams, StructuredOutputsParams
from octavo.vllm import paths

if TYPE_CHECKING:
    from octavo.inputs import PromptType, TextPrompt, TokensPrompt
    from octavo.llm import LLM
    from octavo.pooling_outputs import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        ScoringRequestOutput,
    )
    from octavo.vllm.async_llm import AsyncLLM, AsyncLLMEngine
    from octavo.vllm.engine_args import AsyncEngineArgs, EngineArgs
    from octavo.vllm.llm_engine import LLMEngine

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "GuidedDecodingParams",
    "LLMEngine",
    "Logprob",
    "OctavoError",
    "PoolingParams",
    "PoolingRequestOutput",
    "PromptType",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
]

paths.install()


def __getattr__(name: str) -> Any:
    """Import `LLM`, and torch with it, only where it is used: scheduling, memory and the command line's help start
    without."""
    if name in paths.NAMES:
        return getattr(importlib.import_module(paths.NAMES[name]), name)
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")
