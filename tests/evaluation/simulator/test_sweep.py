"""The highest rate that latencies allow."""

from collections.abc import Callable

import pytest

from octavo.evaluation.simulator.sweep import RESOLUTION, Targets, best, sustained_rates
from octavo.evaluation.simulator.tally import Tally

NUM_REQUESTS = 50


class Machine:
    """Answers after a second at so many requests a second, and after ten at more."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.num_served: list[int] = []

    def __call__(self, rate: float, gives_up: Callable[[Tally], bool]) -> Tally:
        tally = Tally()
        for number in range(NUM_REQUESTS):
            arrival_s = number / rate
            end_s = arrival_s + (1 if rate <= self.limit else 10)
            tally.finish(arrival_s, end_s, end_s, 10, 10)
            if gives_up(tally):
                break
        self.num_served.append(tally.latency.count)
        return tally


@pytest.mark.parametrize("limit", [0.013, 0.9, 1.0, 3.3, 700.0])
@pytest.mark.parametrize("first", [1.0, 50.0])
def test_it_is_found_from_any_rate(limit: float, first: float) -> None:
    tried = list(sustained_rates(Machine(limit), Targets(first_token=1.01), lambda _: NUM_REQUESTS, first))
    found = best(tried)
    assert found is not None
    assert found.rate == max(each.rate for each in tried if each.is_sustained)
    assert limit / RESOLUTION <= found.rate <= limit
    assert len(tried) < 40


def test_a_rate_that_misses_by_far_is_given_up_early() -> None:
    machine = Machine(1.0)
    tried = list(sustained_rates(machine, Targets(normalized_latency=0.11), lambda _: NUM_REQUESTS, first=16.0))
    assert machine.num_served[0] < NUM_REQUESTS / 2
    assert [each.is_given_up for each in tried] == [count < NUM_REQUESTS for count in machine.num_served]
    assert [count for count, each in zip(machine.num_served, tried, strict=True) if each.is_sustained] == [
        NUM_REQUESTS for each in tried if each.is_sustained
    ]


def test_no_rate_is_sustained_at_which_an_answer_is_cut_short() -> None:
    def cut(rate: float, _: Callable[[Tally], bool]) -> Tally:
        tally = Tally()
        tally.finish(0.0, 0.1, 0.2, 10, 5, is_short=rate > 4)
        return tally

    found = best(list(sustained_rates(cut, Targets(first_token=1.0), lambda _: 1)))
    assert found is not None
    assert 4 / RESOLUTION <= found.rate <= 4


def test_all_targets_count() -> None:
    tally = Tally()
    tally.finish(0.0, 2.0, 11.0, 5, 10)
    assert Targets(first_token=1.0, token=2.0, normalized_latency=2.2).excess(tally) == pytest.approx(2, rel=0.01)
    assert Targets(first_token=4.0, token=0.25, normalized_latency=2.2).excess(tally) == pytest.approx(4, rel=0.01)
    assert Targets(normalized_latency=0.55).excess(tally) == pytest.approx(2)
    assert Targets().excess(tally) == 0


def test_where_no_rate_keeps_them_none_is_found() -> None:
    tried = list(sustained_rates(Machine(1.0), Targets(first_token=0.5), lambda _: NUM_REQUESTS))
    assert best(tried) is None
    assert len(tried) < 15


def test_where_every_rate_keeps_them_it_ends() -> None:
    found = best(list(sustained_rates(Machine(1e12), Targets(first_token=2.0), lambda _: NUM_REQUESTS)))
    assert found is not None
    assert found.rate > 1e5
