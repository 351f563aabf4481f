"""Workloads: what a file may hold, and what is drawn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.errors import ConfigError
from octavo.evaluation.workloads import MEANS, Work, draw_workload, read_workload, renewed, repeated


@pytest.mark.parametrize("text", ["{}", "[]", '[{"ids": [], "out": 3}]', '[{"ids": [1], "out": 0}]', "nonsense"])
def test_a_file_that_is_no_workload_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "work.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--workload"):
        read_workload(str(path))


@pytest.mark.parametrize("kind", sorted(MEANS))
def test_drawn_lengths_have_the_papers_means(kind: str) -> None:
    """A little less, as requests over 2,048 tokens and under 4 are drawn again."""
    work = draw_workload(kind, 4000, 1.0, seed=1)
    mean_in, mean_out = sum(len(w.ids) for w in work) / 4000, sum(w.out for w in work) / 4000
    assert mean_in == pytest.approx(MEANS[kind][0], rel=0.25)
    assert mean_out == pytest.approx(MEANS[kind][1], rel=0.15)
    assert work == draw_workload(kind, 4000, 1.0, seed=1)


@pytest.mark.parametrize(("kind", "scale", "seed"), [("sharegpt", 0.5, 0), ("alpaca", 1.0, 3)])
def test_what_is_drawn_is_what_the_peers_workload_maker_writes(
    shared_folder: Path, tmp_path: Path, kind: str, scale: float, seed: int
) -> None:
    out = tmp_path / "work.json"
    flags = ("--kind", kind, "--scale", str(scale), "--seed", str(seed), "--requests", "20", "--out", str(out))
    maker = str(shared_folder / "peers" / "make_workload.py")
    subprocess.run([sys.executable, maker, *flags], check=True, capture_output=True)
    assert draw_workload(kind, 20, scale, seed) == [Work(**each) for each in json.loads(out.read_text())]


def test_a_repeat_has_the_same_lengths_and_other_tokens() -> None:
    work = [Work([5, 6, 7], 9)]
    again = renewed(work, 1, 49000)
    assert (len(again[0].ids), again[0].out) == (3, 9)
    assert set(again[0].ids).isdisjoint(work[0].ids)
    assert max(renewed(work, 3, 50)[0].ids) < 50


def test_no_two_repeats_of_a_work_have_a_prompt_in_common() -> None:
    work = draw_workload("alpaca", 3, 1.0, seed=2)
    repeats = [repeated(work, count, number, 3) for number, count in enumerate((2, 7, 4))]
    assert [len(each) for each in repeats] == [2, 7, 4]
    prompts = [tuple(w.ids) for each in repeats for w in each]
    assert len(set(prompts)) == len(prompts)
    assert [w.out for w in repeats[1]] == [work[number % 3].out for number in range(7)]
