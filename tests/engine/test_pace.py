"""How long one more request would wait, from what the engine reports."""

import pytest

from octavo.engine.pace import MEMORY_S, AdmissionPace


def after(*reports: tuple[int, int, float]) -> AdmissionPace:
    pace = AdmissionPace()
    for num_begun, num_waiting, now_s in reports:
        pace.learn(num_begun, num_waiting, now_s)
    return pace


def test_a_request_waits_for_those_before_it_at_the_pace_of_late():
    pace = after((0, 10, 0.0), (4, 10, 1.0), (8, 10, 2.0))
    assert pace.wait_s(10, 2.0) == pytest.approx(2.5)
    assert pace.wait_s(0, 2.0) == pace.wait_s(-3, 2.0) == 0.0


def test_times_in_which_nobody_waits_tell_nothing():
    pace = after((0, 0, 0.0), (1, 0, 100.0), (50, 10, 200.0), (52, 10, 201.0))
    assert pace.wait_s(10, 201.0) == pytest.approx(5.0), "two in the one second in which somebody waited"


def test_the_time_since_the_last_report_counts():
    pace = after((0, 10, 0.0), (4, 10, 1.0))
    assert pace.wait_s(10, 4.0) == pytest.approx(10.0), "still four, in four seconds"


def test_before_any_is_known_to_have_begun_it_may_take_as_long_again():
    assert AdmissionPace().wait_s(5, 100.0) == 0.0
    assert after((3, 5, 10.0)).wait_s(5, 17.0) == pytest.approx(7.0)


def test_what_was_long_ago_counts_little():
    slow = [(number, 10, 10.0 * number) for number in range(20)]
    start, start_s = slow[-1][0], slow[-1][2]
    fast = [(start + number, 10, start_s + number) for number in range(1, int(4 * MEMORY_S))]
    assert after(*slow).wait_s(10, start_s) == pytest.approx(100.0, rel=0.2)
    assert after(*slow, *fast).wait_s(10, fast[-1][2]) == pytest.approx(10.0, rel=0.1)
