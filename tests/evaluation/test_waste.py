"""Shares of the KV memory: they add up, and stand in the paper's order."""

import pytest

from octavo.evaluation.waste import ALLOCATIONS, measure
from octavo.evaluation.workloads import draw_workload


@pytest.fixture(scope="module")
def shares():
    work = draw_workload("sharegpt", 60, 1.0, seed=1)
    return {each.allocation: each for each in measure(work, 8192, 16, 2048)}


def test_the_shares_of_each_allocation_add_up_to_the_memory(shares) -> None:
    assert list(shares) == list(ALLOCATIONS)
    for each in shares.values():
        assert each.num_steps > 50
        assert each.token_states + each.reserved + each.internal + each.external == pytest.approx(1)


def test_the_more_is_known_of_a_length_the_more_of_the_memory_holds_states(shares) -> None:
    states = [shares[allocation].token_states for allocation in ALLOCATIONS]
    assert states == sorted(states)
    assert shares["contiguous-max"].token_states < 0.3
    assert shares["paged"].token_states > 0.85
    running = [shares[allocation].mean_running for allocation in ALLOCATIONS]
    assert running == sorted(running)


def test_only_what_is_reserved_for_the_longest_sequence_stays_empty_for_good(shares) -> None:
    assert shares["contiguous-max"].internal > shares["contiguous-oracle"].internal
    assert shares["paged"].internal < 0.04
