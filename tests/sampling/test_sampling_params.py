"""Sampling parameters are checked when made, and what is wrong is named."""

import pytest

from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams

NUMBERS = ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
HUGE = [10**400, -(10**400), 10**5000]
"""More than a float holds; the last more than Python prints."""


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize(
    "value", [*HUGE, float("inf"), float("nan"), "1", None, True], ids=lambda value: type(value).__name__
)
def test_what_no_float_holds_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"^{field} must be "):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("bias", [*HUGE, float("inf"), float("nan"), "1"], ids=lambda value: type(value).__name__)
def test_a_bias_that_no_float_holds_is_refused(bias: object) -> None:
    with pytest.raises(RequestError, match=r"^logit_bias must be "):
        SamplingParams(logit_bias={1: bias})  # type: ignore[dict-item]


@pytest.mark.parametrize("field", ["n", "top_k", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs"])
def test_a_negative_number_is_refused_however_long(field: str) -> None:
    for value in (-2, -(10**5000)):
        with pytest.raises(RequestError, match=f"^{field} must be "):
            SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_any_large_top_k_keeps_all() -> None:
    assert SamplingParams(top_k=10**5000).top_k == 10**5000


def test_any_large_max_tokens_is_taken() -> None:
    assert SamplingParams(max_tokens=10**5000, min_tokens=3).min_tokens == 3


def test_seeds_are_of_64_bits_with_a_sign_and_minus_one_is_none() -> None:
    for seed in (-(2**63) - 1, 2**63, 2**64 - 1, 10**5000):
        with pytest.raises(RequestError, match=r"^seed must be "):
            SamplingParams(seed=seed)
    assert SamplingParams(seed=-1).own_seed is SamplingParams().own_seed is None
    assert [SamplingParams(seed=seed).own_seed for seed in (-2, 7, 2**63 - 1)] == [2**64 - 2, 7, 2**63 - 1]


@pytest.mark.parametrize("penalty", [0, -1, 1e-320, 1e-40, 1e39, float("inf")])
def test_a_penalty_that_leaves_float32_is_refused(penalty: float) -> None:
    with pytest.raises(RequestError, match="repetition_penalty must be a finite number"):
        SamplingParams(repetition_penalty=penalty)
