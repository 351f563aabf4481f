"""What drafts cost is learned from the steps, and from nothing else but a prior."""

import pytest

from octavo.execution.step_costs import BALANCE, FIRST_DRAFT, StepCosts


def test_what_the_first_draft_costs_and_each_is_found_from_steps_with_several() -> None:
    costs = StepCosts()
    for repeat in range(90):
        num_drafts = (0, 2, 8)[repeat % 3]
        costs.learn(1, num_drafts, 5.0 * (1 + (0.2 + 0.03 * num_drafts if num_drafts else 0)))
    assert costs.drafts(1) == pytest.approx((0.2, 0.03), abs=0.04)


def test_where_nothing_is_known_there_is_a_prior() -> None:
    costs = StepCosts()
    for _ in range(40):
        costs.learn(64, 0, 8.0)
    each = 1 / (64 + BALANCE)
    assert costs.drafts(64) == pytest.approx((FIRST_DRAFT - each, each))


def test_drafts_that_were_dear_once_are_tried_again_some_time() -> None:
    costs = StepCosts()
    costs.learn(1, 0, 1.0)
    for _ in range(20):
        costs.learn(1, 1, 3.0)
    assert costs.drafts(1)[0] > 1.5
    for _ in range(2000):
        costs.learn(1, 0, 1.0)
    assert costs.drafts(1)[0] < 0.2
