"""vLLM's dashboards work: each of their queries finds series of the names and labels that it asks for."""

import re
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.conftest import serving, until

RATE = '{model_name="$model_name"}[$__rate_interval]'
NOW = '{model_name="$model_name"}'
HISTOGRAMS_OF_LATENCY = (
    "vllm:e2e_request_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:time_to_first_token_seconds",
)
QUERIES = [
    *(
        f"histogram_quantile({quantile}, sum by(le) (rate({name}_bucket{RATE})))"
        for name in HISTOGRAMS_OF_LATENCY
        for quantile in (0.99, 0.95, 0.9, 0.5)
    ),
    *(f"rate({name}_sum{RATE}) / rate({name}_count{RATE})" for name in HISTOGRAMS_OF_LATENCY),
    f"rate(vllm:prompt_tokens_total{RATE})",
    f"rate(vllm:generation_tokens_total{RATE})",
    f"vllm:num_requests_running{NOW}",
    f"vllm:num_requests_waiting{NOW}",
    f"vllm:gpu_cache_usage_perc{NOW}",
    f"vllm:kv_cache_usage_perc{NOW}",
    f"sum by(le) (increase(vllm:request_prompt_tokens_bucket{RATE}))",
    f"sum by(le) (increase(vllm:request_generation_tokens_bucket{RATE}))",
    f"sum by(finished_reason) (increase(vllm:request_success_total{RATE}))",
    f"rate(vllm:request_queue_time_seconds_sum{RATE})",
    f"rate(vllm:request_prefill_time_seconds_sum{RATE})",
    f"rate(vllm:request_decode_time_seconds_sum{RATE})",
    f"rate(vllm:request_inference_time_seconds_sum{RATE})",
    f"rate(vllm:request_max_num_generation_tokens_sum{RATE})",
    f"sum(rate(vllm:request_params_n_count{RATE}))",
    f"sum by(le) (rate(vllm:request_params_max_tokens_bucket{RATE}))",
    f"rate(vllm:prefix_cache_hits_total{RATE}) / rate(vllm:prefix_cache_queries_total{RATE})",
    f"rate(vllm:gpu_prefix_cache_hits_total{RATE}) / rate(vllm:gpu_prefix_cache_queries_total{RATE})",
    f"rate(vllm:num_preemptions_total{RATE})",
]
"""Those of the public dashboards, old and new, as Grafana sends them, and some that people add."""

Series = tuple[str, dict[str, str], float]


def scrape(http: httpx.Client) -> list[Series]:
    """All series as Prometheus' own client reads them."""
    families = text_string_to_metric_families(http.get("/metrics").text)
    return [(s.name, s.labels, s.value) for family in families for s in family.samples]


def value_of(series: list[Series], name: str, **labels: str) -> float:
    """The one value of a name, of those with some labels."""
    [value] = [value for found, its, value in series if found == name and labels.items() <= its.items()]
    return value


@pytest.fixture(scope="module")
def answered(background: Any) -> list[Series]:
    """What a server with two names says after a request of three prompt tokens and two answers of five tokens."""
    ask = {"prompt": "The sea is", "max_tokens": 5, "seed": 1, "n": 2}
    with serving(background, served_model_name=("house/best", "best")) as server, server.http() as http:
        assert http.post("/v1/completions", json=ask).status_code == 200
        until(lambda: server.num_in_server == 0)
        return scrape(http)


def test_every_series_with_a_name_of_vllms_has_its_labels(answered: list[Series]) -> None:
    own = [(name, labels) for name, labels, _ in answered if name.startswith("vllm:")]
    assert len(own) > 200
    assert all(labels["model_name"] == "house/best" and labels["engine"] == "0" for _, labels in own)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_the_dashboards_finds_its_series(answered: list[Series], query: str) -> None:
    asked = re.findall(r"(vllm:\w+)\{model_name=", query)
    assert asked
    wanted = set(re.findall(r"sum by\((\w+)\)", query))
    for name in asked:
        found = [labels for series, labels, _ in answered if series == name and labels["model_name"] == "house/best"]
        assert found, name
        assert all(wanted <= labels.keys() for labels in found)


def test_lengths_and_phases_of_a_request_are_told_once_it_is_over(answered: list[Series]) -> None:
    def total(name: str) -> tuple[float, float]:
        return value_of(answered, f"vllm:{name}_count"), value_of(answered, f"vllm:{name}_sum")

    assert total("request_prompt_tokens") == (1, 3)
    assert total("request_generation_tokens") == (2, 10)
    assert total("request_max_num_generation_tokens") == total("request_params_max_tokens") == (1, 5)
    assert total("request_params_n") == (1, 2)
    assert value_of(answered, "vllm:request_success_total", finished_reason="length") == 2
    phases = ("queue", "prefill", "decode", "inference")
    queue_s, prefill_s, decode_s, inference_s = (total(f"request_{phase}_time_seconds") for phase in phases)
    assert queue_s[0] == prefill_s[0] == decode_s[0] == inference_s[0] == 1
    assert min(queue_s[1], prefill_s[1], decode_s[1]) >= 0
    assert prefill_s[1] + decode_s[1] == pytest.approx(inference_s[1])
    assert queue_s[1] + inference_s[1] == pytest.approx(total("e2e_request_latency_seconds")[1])


def test_buckets_of_lengths_end_at_the_models_length(answered: list[Series]) -> None:
    bounds = [labels["le"] for name, labels, _ in answered if name == "vllm:request_prompt_tokens_bucket"]
    assert bounds == [f"{float(bound)}" for bound in (1, 2, 5, 10, 20, 50, 100, 200, 500)] + ["+Inf"]


def test_a_request_that_was_left_counts_as_ended_and_not_in_lengths(serve: Any) -> None:
    body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with serve() as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()  # kept: a dropped iterator closes the connection
            assert next(lines)
        until(lambda: value_of(scrape(http), "vllm:request_success_total", finished_reason="abort") == 1)
        assert value_of(scrape(http), "vllm:request_generation_tokens_count") == 0
