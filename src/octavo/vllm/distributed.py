"""What vLLM's scripts call to clean up after a model."""

import gc


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """Free what a deleted `LLM` held. Its processes, if it had some, ended with it."""
    gc.collect()


def destroy_model_parallel() -> None:
    """Nothing: a model's processes end with its `LLM`."""


def destroy_distributed_environment() -> None:
    """Nothing: a model's processes end with its `LLM`."""
