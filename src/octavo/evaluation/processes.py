"""Jobs that take minutes, done side by side: a process for each core."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Job], Result], jobs: Sequence[Job], num_processes: int
) -> Iterator[tuple[Job, Result]]:
    """Each job and what it gives, as they are done; with one process or one job in this process, and in order.

    Args:
        work: goes to other processes by its name, and jobs and results by their content.

    Raises:
        Exception: what a job raises. Those that have not begun are dropped then, as when nothing more is asked for.
    """
    num_processes = min(num_processes, len(jobs))
    if num_processes <= 1:
        for job in jobs:
            yield job, work(job)
        return
    context = multiprocessing.get_context("spawn")  # torch has threads, which a fork would not have
    with ProcessPoolExecutor(num_processes, context, initializer=_take_one_core) as pool:
        running = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take_one_core() -> None:
    """Processes beside each other have a core each."""
    import torch

    torch.set_num_threads(1)
