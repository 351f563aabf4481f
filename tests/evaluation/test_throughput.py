"""Throughput and latency of the offline API, on a tiny model."""

import itertools
from collections.abc import Iterator

import pytest

from octavo import LLM
from octavo.errors import RequestError
from octavo.evaluation import latency, throughput
from octavo.evaluation.workloads import Work
from tiny_checkpoints import make_llama


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = make_llama(tmp_path_factory.mktemp("tiny"), max_position_embeddings=512)
    with LLM(str(folder), tokenizer="smollm2", kv_cache_memory="8MiB", max_num_seqs=2) as llm:
        yield llm


WORK = [Work(list(range(30)), 40), Work([7], 5), Work(list(range(1000, 1100)), 1)]


def test_every_token_is_counted_and_told(llm: LLM) -> None:
    """Ids over the small vocabulary become others of it."""
    told: list[int] = []
    ticks = itertools.count(step=0.125)
    figures, moments = throughput.measure(
        llm, WORK, precision="f32", load_s=1.26, produced=told.append, clock=lambda: next(ticks)
    )
    assert sum(told) == throughput.num_output_tokens(WORK)
    assert (figures.peer, figures.precision, figures.requests, figures.load_s) == ("octavo", "f32", 3, 1.3)
    assert moments[-1].output_tokens == 46
    assert figures.output_tok_s == round(46 / moments[-1].second, 1)
    assert figures.total_tok_s == round((46 + 131) / moments[-1].second, 1)


def test_the_moments_show_requests_that_wait_their_turn(llm: LLM) -> None:
    """With two sequences at once, one of three requests has to."""
    _, moments = throughput.measure(llm, WORK, precision="f32", load_s=0.0)
    assert (moments[1].running, moments[1].waiting) == (2, 1)
    assert 0 < moments[1].blocks_used < 1
    assert (moments[-1].running, moments[-1].waiting, moments[-1].blocks_used) == (0, 0, 0)


def test_a_request_that_does_not_fit_is_named(llm: LLM) -> None:
    with pytest.raises(RequestError, match="prompt 1"):
        throughput.measure(llm, [WORK[0], Work([1] * 500, 100)], precision="f32", load_s=0.0)


def test_latency_tells_the_first_token_apart_from_the_gaps(llm: LLM) -> None:
    streams: list[None] = []
    case = latency.measure(llm, 20, 6, 3, lambda: streams.append(None))
    assert len(streams) == 3
    for percentiles in (case.first_token_ms, case.between_tokens_ms):
        assert percentiles == sorted(percentiles)
        assert len(percentiles) == 3
        assert percentiles[0] > 0
    assert case.tokens_a_second > 0


def test_a_stream_of_one_token_has_no_gaps(llm: LLM) -> None:
    assert latency.measure(llm, 20, 1, 2).between_tokens_ms == []
