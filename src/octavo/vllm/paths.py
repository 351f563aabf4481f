"""vLLM's import paths: modules that have no file here, made of names that live elsewhere in this package.

`from octavo.engine.arg_utils import EngineArgs` is looked up in `PATHS` once no file of that name has been found.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ENGINE_ARGS = "octavo.vllm.engine_args"
DISTRIBUTED = "octavo.vllm.distributed"
METRICS = "octavo.vllm.metrics"

NAMES = {
    "LLM": "octavo.llm",
    "EngineArgs": ENGINE_ARGS,
    "AsyncEngineArgs": ENGINE_ARGS,
    "LLMEngine": "octavo.vllm.llm_engine",
    "AsyncLLM": "octavo.vllm.async_llm",
    "AsyncLLMEngine": "octavo.vllm.async_llm",
    **dict.fromkeys(
        (
            "PoolingRequestOutput",
            "EmbeddingRequestOutput",
            "ClassificationRequestOutput",
            "ScoringRequestOutput",
            "PoolingOutput",
            "EmbeddingOutput",
            "ClassificationOutput",
            "ScoringOutput",
        ),
        "octavo.pooling_outputs",
    ),
    "TextPrompt": "octavo.inputs",
    "TokensPrompt": "octavo.inputs",
    "PromptType": "octavo.inputs",
    "FlexibleArgumentParser": "octavo.vllm.flags",
}
"""Names that `octavo` itself has, beside its light ones, and where each lives: imported once they are used."""

PATHS: dict[str, dict[str, str]] = {
    "octavo.distributed": dict.fromkeys(
        ("cleanup_dist_env_and_memory", "destroy_model_parallel", "destroy_distributed_environment"), DISTRIBUTED
    ),
    "octavo.distributed.parallel_state": dict.fromkeys(
        ("cleanup_dist_env_and_memory", "destroy_model_parallel", "destroy_distributed_environment"), DISTRIBUTED
    ),
    "octavo.engine.arg_utils": dict.fromkeys(("EngineArgs", "AsyncEngineArgs"), ENGINE_ARGS),
    "octavo.engine.async_llm_engine": {"AsyncLLMEngine": NAMES["AsyncLLM"]},
    "octavo.engine.llm_engine": {"LLMEngine": NAMES["LLMEngine"]},
    "octavo.entrypoints.llm": {"LLM": NAMES["LLM"]},
    "octavo.pooling_params": {"PoolingParams": "octavo.pooling"},
    "octavo.utils": {"FlexibleArgumentParser": NAMES["FlexibleArgumentParser"], "random_uuid": "octavo.vllm.flags"},
    "octavo.utils.argparse_utils": {"FlexibleArgumentParser": NAMES["FlexibleArgumentParser"]},
    "octavo.v1": {},
    "octavo.v1.engine": {},
    "octavo.v1.engine.async_llm": {"AsyncLLM": NAMES["AsyncLLM"]},
    "octavo.v1.engine.llm_engine": {"LLMEngine": NAMES["LLMEngine"]},
    "octavo.v1.metrics": {},
    "octavo.v1.metrics.reader": dict.fromkeys(("Counter", "Gauge", "Histogram", "Metric", "Vector"), METRICS),
}
"""Modules, and the modules that their names live in."""


class _Names(ModuleType):
    """A module whose names are imported once they are used."""

    def __init__(self, path: str) -> None:
        super().__init__(path, f"vLLM's import path; see {__name__}.")
        self.__all__ = list(PATHS[path])

    def __getattr__(self, name: str) -> Any:
        home = PATHS[self.__name__].get(name)
        if home is None:
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}; it has {', '.join(self.__all__)}"
            )
        return getattr(importlib.import_module(home), name)


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Names(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to be done."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PATHS:
            return None
        return ModuleSpec(fullname, _Loader(), is_package=any(each.startswith(f"{fullname}.") for each in PATHS))


def install() -> None:
    """Let these paths be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
