"""Which executor runs the model that a config asks for."""

from typing import TYPE_CHECKING

from octavo.config import EngineConfig

if TYPE_CHECKING:
    from octavo.execution.local import LocalExecutor
    from octavo.execution.multiprocess import MultiProcessExecutor


def executor_class(config: EngineConfig) -> "type[LocalExecutor] | type[MultiProcessExecutor]":
    """The local executor for one process, which is this one, and the multi-process executor for more; call it with the
    config. Only the first loads torch."""
    if config.tensor_parallel_size > 1:
        from octavo.execution.multiprocess import MultiProcessExecutor

        return MultiProcessExecutor
    from octavo.execution.local import LocalExecutor

    return LocalExecutor
