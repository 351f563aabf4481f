"""Jobs in processes of their own, or in this one."""

import os

import pytest

from octavo.evaluation.processes import side_by_side


def squared(number: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError("below 0")
    return number**2, os.getpid()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_job_is_done_once(num_processes: int) -> None:
    done = dict(side_by_side(squared, range(5), num_processes))
    assert {job: result for job, (result, _) in done.items()} == {job: job**2 for job in range(5)}
    assert (os.getpid() in {process for _, process in done.values()}) == (num_processes == 1)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_what_a_job_raises_is_raised(num_processes: int) -> None:
    with pytest.raises(ValueError, match="below 0"):
        list(side_by_side(squared, [3, -1, 2], num_processes))
