"""A request that can never run is refused at once, with the limit and the flag that changes it."""

import dataclasses
from typing import Any

import pytest

from octavo.errors import ContextLengthError, RequestError
from octavo.execution.executor import Capabilities
from octavo.layer_groups import Full, Window, group_layers, one_group
from octavo.memory import BlockDemand
from octavo.sampling_params import Beams, BeamSearchParams, SamplingParams
from octavo.scheduling.admission import Limits, check_wants, resolve_max_tokens
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import Grammar

DEMAND = BlockDemand(16, one_group(2), max_tokens_in_flight=64)
LIMITS = Limits(
    num_blocks=64,
    block_size=16,
    max_model_len=512,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    vocab_size=100,
    max_logprobs=5,
    demand=DEMAND,
)


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ([], {}, "the prompt is empty"),
        ([1] * 512, {}, r"512 tokens.*--max-model-len"),
        ([1] * 511, {"n": 8}, r"n=8.*39 KV blocks.*has 33.*--kv-cache-memory"),
        ([1, 100], {}, r"token id 100.*0 to 99"),
        ([1, -1], {}, r"token id -1"),
        ([1], {"stop_token_ids": [500]}, r"stop_token_ids.*500"),
        ([1], {"logit_bias": {500: 1.0}}, r"logit_bias.*500"),
        ([1], {"allowed_token_ids": [500]}, r"allowed_token_ids.*500"),
        ([1], {"logprobs": 6}, r"logprobs=6.*5.*--max-logprobs"),
        ([1], {"prompt_logprobs": 6}, r"prompt_logprobs=6.*--max-logprobs"),
        ([1] * 500, {"max_tokens": None, "min_tokens": 100}, r"min_tokens=100.*12"),
    ],
)
def test_a_request_that_cannot_run_is_refused_with_numbers_and_flag(
    prompt: list[int], params: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        resolve_max_tokens(prompt, SamplingParams(**params), dataclasses.replace(LIMITS, num_blocks=33))


def test_a_prompt_over_the_context_is_told_in_the_words_that_clients_look_for() -> None:
    for prompt, num_blocks in (([1] * 512, 64), ([1] * 400, 25)):
        with pytest.raises(
            ContextLengthError, match=r"This model's maximum context length is 512 tokens\..*prompt is too long"
        ):
            resolve_max_tokens(prompt, SamplingParams(), dataclasses.replace(LIMITS, num_blocks=num_blocks))


def test_max_tokens_is_cut_to_what_the_model_and_the_pool_leave() -> None:
    assert resolve_max_tokens([1] * 500, SamplingParams(max_tokens=13), LIMITS) == 12
    assert resolve_max_tokens([1] * 500, SamplingParams(max_tokens=10**5000), LIMITS) == 12
    assert resolve_max_tokens([1] * 100, SamplingParams(max_tokens=13), LIMITS) == 13
    cut = resolve_max_tokens([1] * 200, SamplingParams(n=8, max_tokens=200), LIMITS)
    assert DEMAND.of_request(200, 200 + cut, 8) <= 64 < DEMAND.of_request(200, 201 + cut, 8)


def test_all_tokens_may_be_told_where_there_is_no_cap() -> None:
    for params in (SamplingParams(logprobs=-1), SamplingParams(prompt_logprobs=-1)):
        with pytest.raises(RequestError, match=r"logprobs=-1.*--max-logprobs"):
            resolve_max_tokens([1], params, LIMITS)
        assert resolve_max_tokens([1], params, dataclasses.replace(LIMITS, max_logprobs=-1))


@pytest.mark.parametrize(
    ("wants", "words"),
    [
        ({"task": "score"}, "no task 'score'; it has 'generate'"),
        ({"adapter": "German"}, "adapter 'German' is unknown.* french, legal$"),
        ({"grammar": Grammar("regex", ".*")}, "kind of grammar 'regex' is unknown.* none$"),
    ],
)
def test_what_no_row_can_have_is_refused_with_what_it_can(wants: dict[str, Any], words: str) -> None:
    capabilities = Capabilities(adapters=("legal", "french"))
    with pytest.raises(RequestError, match=words):
        check_wants(EngineRequest("a", [1], SamplingParams(), 0.0, **wants), capabilities)
    check_wants(EngineRequest("a", [1], SamplingParams(), 0.0, adapter="legal"), capabilities)
    assert [capabilities.adapter_number(name) for name in (None, "legal", "french")] == [0, 1, 2]


def test_more_beams_than_the_token_budget_are_refused() -> None:
    limits = dataclasses.replace(LIMITS, max_num_batched_tokens=4)
    with pytest.raises(RequestError, match=r"beam_width=5.*4.*--max-num-batched-tokens"):
        resolve_max_tokens([1], BeamSearchParams(beam_width=5).sampling_params(), limits)


def test_samples_beyond_those_that_run_at_once_need_no_room() -> None:
    eight, thousand = (resolve_max_tokens([1] * 100, SamplingParams(n=n, max_tokens=None), LIMITS) for n in (8, 1000))
    assert eight == thousand


def test_without_max_tokens_the_most_that_fit_are_allowed() -> None:
    assert resolve_max_tokens([1] * 100, SamplingParams(max_tokens=None), LIMITS) == 412
    small = dataclasses.replace(LIMITS, num_blocks=20)
    assert resolve_max_tokens([1] * 100, SamplingParams(max_tokens=None), small) == 20 * 16 - 100
    for n in range(1, 9):
        most = resolve_max_tokens([1] * 100, SamplingParams(n=n, max_tokens=None), LIMITS)
        assert DEMAND.of_request(100, 100 + most, n) <= 64
        assert most == 412 or DEMAND.of_request(100, 101 + most, n) > 64


def test_the_worst_case_counts_the_full_prompt_blocks_once() -> None:
    assert DEMAND.of_request(32, 48, 1) == 3
    assert DEMAND.of_request(32, 48, 4) == 2 + 4
    assert DEMAND.of_request(33, 49, 4) == 2 + 4 * 2


def test_the_worst_case_of_a_window_group_is_what_its_window_and_the_tokens_in_flight_reach() -> None:
    demand = BlockDemand(16, group_layers([Full(), Window(100)]), max_tokens_in_flight=64)
    assert demand.of_request(2000, 3200, 1) == 200 + (99 + 64 + 14) // 16 + 1
    assert demand.of_request(20, 40, 1) == 3 + 3, "no more than the sequence has"
    assert demand.longest(2000, 1, 200 + 12, 4000) == 3200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 1.5),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", -0.1),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("stop", [""]),
        ("stop_token_ids", [-1]),
        ("allowed_token_ids", []),
        ("logprobs", -2),
        ("bad_words", [""]),
        ("logit_bias", {1: float("inf")}),
        ("temperature", "warm"),
        ("stop", 3),
    ],
)
def test_a_parameter_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": True}, "beam_width"),
        ({"beam_width": 2, "n": 3}, "n must be at most the beam width"),
        ({"beam_width": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"beam_width": 2, "length_penalty": 11}, "length_penalty"),
        ({"beam_width": 2, "early_stopping": "always"}, 'early_stopping.*"never"'),
        ({"beam_width": 2, "max_tokens": 0}, "max_tokens"),
        ({"beam_width": 2, "allowed_token_ids": []}, "allowed_token_ids"),
    ],
)
def test_a_parameter_of_a_beam_search_out_of_range_is_named(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        BeamSearchParams(**fields)


def test_stop_texts_are_refused_in_a_beam_search() -> None:
    with pytest.raises(RequestError, match=r"stop .*stop_token_ids"):
        SamplingParams(beams=Beams(width=2), stop="a")


def test_a_beam_search_counts_as_many_sequences_as_it_is_wide() -> None:
    with pytest.raises(RequestError, match=r"beam_width=9.*8.*--max-num-seqs"):
        resolve_max_tokens([1], BeamSearchParams(beam_width=9, n=1).sampling_params(), LIMITS)
    search = BeamSearchParams(beam_width=4, n=1).sampling_params()
    assert resolve_max_tokens([1] * 100, search, LIMITS) == resolve_max_tokens(
        [1] * 100, SamplingParams(n=4, max_tokens=None), LIMITS
    )
