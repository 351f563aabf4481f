"""Which executor runs the model that a config asks for."""

from collections.abc import Mapping
from typing import Protocol

from octavo import collector
from octavo.config import EngineConfig
from octavo.execution.executor import Executor
from octavo.execution.machine import check_address_space
from octavo.sampling.grammars import BUILT_IN


class ExecutorClass(Protocol):
    """Makes an executor of a kind."""

    def __call__(
        self, config: EngineConfig, *, progress: bool = False, grammars: Mapping[str, str] = BUILT_IN
    ) -> Executor:
        """Load the model that the config names; `progress` shows a bar on stderr.

        Args:
            grammars: the kinds of grammars that it is to know, as `Grammars` takes them.
        """
        ...


LIBRARIES_BYTES = 800 * 2**20
"""Addresses that the libraries of one process take, about."""


def executor_class(config: EngineConfig) -> ExecutorClass:
    """The local executor for one process, which is this one, and the multi-process executor for more; call it with the
    config. Only the first loads torch.

    Raises:
        ConfigError: this process may not have the addresses for it.
    """
    check_address_space(LIBRARIES_BYTES, "a process that runs a model")
    if config.tensor_parallel_size > 1:
        from octavo.execution.multiprocess import MultiProcessExecutor

        return MultiProcessExecutor
    with collector.paused():
        from octavo.execution.local import LocalExecutor

        return LocalExecutor
