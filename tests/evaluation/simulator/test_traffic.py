"""Requests as they are drawn, and as traces have them."""

import math
import random
from itertools import islice
from pathlib import Path

import pytest

from octavo.errors import ConfigError
from octavo.evaluation.simulator.traffic import (
    Arrival,
    Lengths,
    again_and_again,
    at_rate,
    drawn,
    faster,
    read_trace,
    share,
)

TRACE = "arrival_s,prompt_tokens,output_tokens\n2.5,100,10\n3,200,40\n4.25,1000,4\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_lengths_have_the_mean_and_deviation_that_are_asked_for() -> None:
    generator = random.Random(0)
    lengths = [Lengths(200, 150).draw(generator) for _ in range(20_000)]
    mean = sum(lengths) / len(lengths)
    assert mean == pytest.approx(200, rel=0.03)
    assert math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths)) == pytest.approx(150, rel=0.1)
    assert {Lengths(33).draw(generator) for _ in range(5)} == {33}
    assert min(Lengths(1, 3).draw(generator) for _ in range(1000)) == 1


def test_pairs_fit_into_the_model_and_are_the_same_for_a_seed() -> None:
    pairs = list(islice(drawn(Lengths(100, 300), Lengths(50, 100), 256, seed=3), 500))
    assert max(map(sum, pairs)) <= 256
    assert pairs == list(islice(drawn(Lengths(100, 300), Lengths(50, 100), 256, seed=3), 500))
    with pytest.raises(ConfigError, match="--prompt-tokens or --output-tokens"):
        next(drawn(Lengths(200), Lengths(57), 256, seed=0))


def test_requests_come_at_their_rate() -> None:
    arrivals = list(at_rate([(1, 1)] * 20_000, 4.0, seed=0))
    assert arrivals[-1].arrival_s == pytest.approx(5000, rel=0.03)
    assert {each.arrival_s for each in at_rate([(1, 1)] * 9, math.inf, seed=0)} == {0.0}


def test_a_trace_begins_with_its_first_request(trace: Path) -> None:
    assert read_trace(str(trace), None) == [Arrival(0.0, 100, 10), Arrival(0.5, 200, 40), Arrival(1.75, 1000, 4)]
    assert read_trace(str(trace), 2) == [Arrival(0.0, 100, 10), Arrival(0.5, 200, 40)]
    assert read_trace(str(trace), None, scale=0.1) == [Arrival(0.0, 10, 1), Arrival(0.5, 20, 4), Arrival(1.75, 100, 1)]


def test_what_does_not_fit_is_left_out_and_the_next_one_taken(trace: Path) -> None:
    assert read_trace(str(trace), 2, longest=240) == [Arrival(0.0, 100, 10), Arrival(0.5, 200, 40)]
    with pytest.raises(ConfigError, match="no request of at most 20 tokens"):
        read_trace(str(trace), None, longest=20)


@pytest.mark.parametrize("text", ["\ufeff" + TRACE, TRACE.replace(",", " , "), TRACE.replace("\n", "\r\n")])
def test_a_trace_may_be_as_other_programs_write_it(tmp_path: Path, trace: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(text.encode())
    assert read_trace(str(path), None) == read_trace(str(trace), None)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.csv"
    path.write_bytes(TRACE.encode() + b"\xff\xfe,1,1\n")
    with pytest.raises(ConfigError, match="cannot be read as CSV"):
        read_trace(str(path), None)


def test_what_is_left_out_of_a_trace_is_told(trace: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_trace(str(trace), None, longest=240)
    assert "1 of its requests are left out" in caplog.text
    caplog.clear()
    read_trace(str(trace), None, scale=1e307, longest=10**10)
    assert not caplog.text


def test_lengths_that_never_fit_together_are_refused_and_not_drawn_for_ever() -> None:
    with pytest.raises(ConfigError, match="over the 2047"):
        next(drawn(Lengths(1001.5), Lengths(1045.5), 2047, 0))


def test_a_trace_can_be_gone_through_again(trace: Path) -> None:
    arrivals = read_trace(str(trace), None)
    longer = list(islice(again_and_again(arrivals), 7))
    assert longer[:3] == arrivals
    assert [each.arrival_s for each in longer] == [0.0, 0.5, 1.75, 2.625, 3.125, 4.375, 5.25]
    assert longer[3].prompt_tokens == arrivals[0].prompt_tokens
    assert {each.arrival_s for each in islice(again_and_again(arrivals[:1]), 3)} == {0.0}


def test_a_trace_can_come_faster_and_be_shared_out(trace: Path) -> None:
    arrivals = read_trace(str(trace), None)
    assert [each.arrival_s for each in faster(arrivals, 0.5)] == [0.0, 1.0, 3.5]
    assert list(share(arrivals, 1, 2)) == arrivals[1:2]
    assert list(share(arrivals, 0, 2)) == arrivals[::2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "no column arrival_s, prompt_tokens, output_tokens"),
        ("arrival_s,prompt_tokens\n1,2\n", "no column output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n", "no request"),
        ("", "no column"),
        (TRACE + "5,x,1\n", "line 5: it needs a number"),
        (TRACE + "5,1\n", "line 5: it needs a number"),
        (TRACE + "5,1,0\n", "line 5: prompt and output need a token"),
        (TRACE + "4,1,1\n", "line 5: arrivals must not go back"),
        (TRACE + "nan,1,1\n", "line 5: arrival_s must be finite"),
        (TRACE + "5,1.5,1\n", "line 5: it needs a number in arrival_s, and whole ones"),
        (TRACE + "5,1,1" + "0" * 400 + "\n", "line 5: prompt and output need a token at least, and 1,000,000,000"),
        ("arrival_s,arrival_s,prompt_tokens,output_tokens\n1,1,1,1\n", "column arrival_s twice"),
        (TRACE + '5,"' + "1" * 200_000 + '",1\n', "cannot be read as CSV"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_trace(str(path), None)


def test_a_trace_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="--trace /nowhere"):
        read_trace("/nowhere/trace.csv", None)
