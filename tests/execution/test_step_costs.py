"""What a token more costs is learned from the steps, and from nothing else but a prior."""

import pytest

from octavo.execution.step_costs import BALANCE, StepCosts


def test_the_cost_of_a_token_is_found_from_steps_of_several_sizes() -> None:
    costs = StepCosts()
    for repeat in range(40):
        num_tokens = 1 + 8 * (repeat % 2)
        costs.learn(num_tokens, 5.0 + 0.5 * num_tokens)
    seconds, token_s = costs.estimate(4)
    assert seconds == pytest.approx(7.0, rel=0.05)
    assert token_s == pytest.approx(0.5, rel=0.1)


def test_steps_of_one_size_leave_the_prior() -> None:
    costs = StepCosts()
    for _ in range(40):
        costs.learn(64, 8.0)
    assert costs.estimate(64) == pytest.approx((8.0, 8.0 / (64 + BALANCE)))


def test_what_was_true_long_ago_is_forgotten() -> None:
    costs = StepCosts()
    for slope in (2.0, 0.25):
        for repeat in range(200):
            num_tokens = 1 + repeat % 5
            costs.learn(num_tokens, 4.0 + slope * num_tokens)
    assert costs.estimate(1)[1] == pytest.approx(0.25, rel=0.1)
