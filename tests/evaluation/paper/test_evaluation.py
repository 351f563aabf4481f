"""The paper's evaluation: its systems and lengths, its parts that go on where they were, and the page of claims."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.commands import octavo
from octavo.evaluation.paper import evaluation
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.evaluation import FIGURES, draw, missing_jobs, read_results, run_jobs
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.report import report
from octavo.evaluation.paper.runs import served, sustained
from octavo.evaluation.paper.setups import (
    FASTER_TRANSFORMER,
    LONGEST,
    ORCA_MAX,
    ORCA_ORACLE,
    PAGED,
    SETUPS,
    SYSTEMS,
    pairs,
    prepared,
)
from octavo.evaluation.workloads import MEANS

OPT_13B = SETUPS["OPT-13B"]


@pytest.mark.parametrize("dataset", MEANS)
def test_lengths_have_the_published_means_though_the_longest_are_left_out(dataset: str) -> None:
    drawn = pairs(dataset, 20_000, seed=5)
    assert max(map(sum, drawn)) <= LONGEST
    means = [sum(numbers) / len(drawn) for numbers in zip(*drawn, strict=True)]
    assert means == pytest.approx(MEANS[dataset], rel=0.04)


def test_a_setup_has_the_papers_slots_and_a_static_batch_as_many_requests_as_fit_at_full_length() -> None:
    with prepared(OPT_13B, PAGED) as (config, executor):
        assert OPT_13B.num_slots - config.block_size < executor.capacity.num_blocks * config.block_size
        assert executor.capacity.num_blocks * config.block_size <= OPT_13B.num_slots
    with prepared(OPT_13B, FASTER_TRANSFORMER) as (config, _):
        assert (config.max_num_seqs, config.scheduling_policy) == (7, "static")


def test_the_systems_stand_in_the_papers_order() -> None:
    """Under load: requests that run at once, and what of the memory they fill."""
    figures = {system: served(OPT_13B, system, "sharegpt", 4.0, 300).figures() for system in SYSTEMS}
    running = [figures[system].mean_running for system in list(SYSTEMS)[1:]]
    states = [figures[system].token_states for system in list(SYSTEMS)[1:]]
    assert running == sorted(running)
    assert states == sorted(states)
    assert figures[ORCA_MAX].mean_running == pytest.approx(7, abs=0.5)
    assert figures[FASTER_TRANSFORMER].mean_running < 7
    assert figures[PAGED].preemptions > 0 == figures[ORCA_ORACLE].preemptions


def test_a_static_batch_is_answered_when_all_of_it_is_over() -> None:
    whole = served(OPT_13B, FASTER_TRANSFORMER, "sharegpt", 0.05, 30).figures()
    alone = served(OPT_13B, ORCA_MAX, "sharegpt", 0.05, 30).figures()
    assert whole.first_token_s.mean == pytest.approx(whole.latency_s.mean)
    assert alone.first_token_s.mean < alone.latency_s.mean / 10


def test_paged_memory_sustains_higher_rates() -> None:
    def highest(system: str) -> float:
        tried = sustained(OPT_13B, system, "sharegpt", 40.0, 2.0, 1.5)
        return max(each.rate for each in tried if each.is_sustained)

    assert highest(PAGED) > 1.2 * highest(ORCA_MAX)


class Toy:
    """A figure of two parts."""

    name = "toy"
    title = "A toy"

    def __init__(self) -> None:
        self.num_run = 0

    def jobs(self, quick: bool) -> list[Job]:
        return [Job("a", (1, quick)), Job("b", (2, quick))]

    def run(self, job: Job) -> float:
        self.num_run += 1
        if job.key == "b" and self.num_run == 2:
            raise KeyboardInterrupt
        number, quick = job.arguments
        return float(number * (1 if quick else 10))

    def claims(self, results: dict[str, Any]) -> list[Claim]:
        near = Claim(figure=self.name, text="a is one", low=1, high=1, slack=0.5, simulated=results["a"])
        return [
            near,
            Claim(
                figure=self.name,
                text="b is little",
                unit="x",
                low=0.5,
                high=1,
                simulated=results["b"],
                note="it is not",
            ),
        ]

    def draw(self, results: dict[str, Any], figure: Any) -> None:
        figure.subplots().bar(list(results), list(results.values()))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    figure = Toy()
    monkeypatch.setitem(evaluation.FIGURES, "toy", figure)
    return figure


def test_a_run_that_was_stopped_goes_on_where_it_was(toy: Toy, tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_jobs(missing_jobs(["toy"], tmp_path, True), tmp_path, True, 1, told.append)
    assert [job.key for _, job in missing_jobs(["toy"], tmp_path, True)] == ["b"]
    run_jobs(missing_jobs(["toy"], tmp_path, True), tmp_path, True, 1, told.append)
    assert told == ["toy a", "toy b"]
    assert read_results(tmp_path, "toy", True).parts == {"a": 1.0, "b": 2.0}
    assert missing_jobs(["toy"], tmp_path, True) == []
    # A full run takes nothing from a quick one.
    assert [job.key for _, job in missing_jobs(["toy"], tmp_path, False)] == ["a", "b"]


def test_the_page_says_at_once_which_claims_hold(toy: Toy, tmp_path: Path) -> None:
    page = report({"toy": {"a": 1.2, "b": 2.0}}, "octavo evaluate paper", ".")
    assert "**1 of 2 claims hold**" in page
    assert "| toy | a is one | 1 | ±0.5 | 1.2 | yes |" in page
    assert "| toy | b is little | 0.5 to 1x |  | 2x | **no** |" in page
    assert "- b is little: it is not." in page
    draw("toy", {"a": 1.2, "b": 2.0}, tmp_path)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "toy.svg").read_text().startswith("<?xml")


def test_a_file_that_is_none_of_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "table-1.json").write_text("[]")
    done = octavo("evaluate", "paper", "--quick", "--figures", "table-1", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "table-1.json" in done.stderr
    assert "delete it" in done.stderr


def test_one_figure_is_run_by_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("evaluate", "paper", "--quick", "--figures", "table-1", "--out", str(out), "--processes", "1")
    done = octavo(*flags)
    assert done.returncode == 0, done.stderr
    assert "| table-1 | OPT-13B, KV of a token | 800 KB |  | 800 KB | yes |" in done.stdout
    assert (tmp_path / "out.md").read_text() == done.stdout
    assert "](out/table-1.svg)" in done.stdout
    assert json.loads((out / "table-1.json").read_text())["quick"] is True
    assert (out / "table-1.svg").exists()


@pytest.mark.parametrize(("flags", "told"), [(("--figures", "99"), "figure-12"), (("--processes", "0"), "--processes")])
def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    done = octavo("evaluate", "paper", *flags, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert told in done.stderr


def test_every_figure_has_claims_of_all_its_parts_and_is_drawn(tmp_path: Path) -> None:
    """With made-up results: those that a part would give."""
    made_up: dict[str, dict[str, Any]] = {
        "table-1": {name: {"parameter_gb": 1.0, "num_slots": 9, "slot_kb": 800.0} for name in SETUPS},
        "figure-13": {job.key: 5.0 for job in FIGURES["figure-13"].jobs(True)},
        "figure-12": {
            job.key: {"points": [(1.0, 0.1), (2.0, 0.4)], "sustained": 1.0, "running": 3.0}
            for job in FIGURES["figure-12"].jobs(False)
        },
    }
    for name, results in made_up.items():
        assert all(claim.simulated is not None for claim in FIGURES[name].claims(results))
        draw(name, results, tmp_path)
    assert len(FIGURES["figure-12"].claims(made_up["figure-12"])) == 9
