"""The paper's evaluation: its systems and lengths, its parts that go on where they were, and the page of claims."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cli.commands import octavo
from octavo.evaluation.decoding import Decoding
from octavo.evaluation.paper import evaluation, figure_18, figure_19
from octavo.evaluation.paper.claims import Claim
from octavo.evaluation.paper.evaluation import FIGURES, Results, draw, missing_jobs, read_results, run_jobs
from octavo.evaluation.paper.figure import Job
from octavo.evaluation.paper.here import ServedHere, loaded
from octavo.evaluation.paper.rate_curves import RateCurves
from octavo.evaluation.paper.report import report
from octavo.evaluation.paper.runs import served, sustained
from octavo.evaluation.paper.setups import (
    FASTER_TRANSFORMER,
    LLAMA_13B,
    LONGEST,
    OPT_13B,
    ORCA_MAX,
    ORCA_ORACLE,
    PAGED,
    SYSTEMS,
    Setup,
    prepared,
)
from octavo.evaluation.paper.workload import CHAT, MOST_HISTORY, TRANSLATION, Workload, pairs
from octavo.evaluation.waste import ALLOCATIONS
from octavo.evaluation.workloads import MEANS

SHAREGPT = Workload("sharegpt")


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
    figures = {system: served(OPT_13B, system, SHAREGPT, 4.0, 300).figures() for system in SYSTEMS}
    running = [figures[system].mean_running for system in list(SYSTEMS)[1:]]
    states = [figures[system].token_states for system in list(SYSTEMS)[1:]]
    assert running == sorted(running)
    assert states == sorted(states)
    assert figures[ORCA_MAX].mean_running == pytest.approx(7, abs=0.5)
    assert figures[FASTER_TRANSFORMER].mean_running < 7
    assert figures[PAGED].preemptions > 0 == figures[ORCA_ORACLE].preemptions


def test_a_static_batch_is_answered_when_all_of_it_is_over() -> None:
    whole = served(OPT_13B, FASTER_TRANSFORMER, SHAREGPT, 0.05, 30).figures()
    alone = served(OPT_13B, ORCA_MAX, SHAREGPT, 0.05, 30).figures()
    assert whole.first_token_s.mean == pytest.approx(whole.latency_s.mean)
    assert alone.first_token_s.mean < alone.latency_s.mean / 10


def test_paged_memory_sustains_higher_rates() -> None:
    def highest(system: str) -> float:
        tried = sustained(OPT_13B, system, SHAREGPT, 40.0, 2.0, 1.5)
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
    page = report({"toy": Results(True, {"a": 1.2, "b": 2.0}, "an abacus")}, "octavo evaluate paper", ".")
    assert "**1 of 2 claims hold**: toy 1 of 2." in page
    assert "| toy | a is one | 1 | ±0.5 | 1.2 |  | yes |" in page
    assert "| toy | b is little | 0.5 to 1x |  | 2x |  | **no** |" in page
    assert "- b is little: it is not." in page
    assert "an abacus. A rate" in page
    assert "quick run" in page
    draw("toy", {"a": 1.2, "b": 2.0}, tmp_path)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "toy.svg").read_bytes()
    assert drawn.startswith(b"<?xml")
    draw("toy", {"a": 1.2, "b": 2.0}, tmp_path)
    assert (tmp_path / "toy.svg").read_bytes() == drawn


@pytest.mark.parametrize("out", ["/", "table.txt"])
def test_what_is_no_folder_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.txt").write_text("")
    done = octavo("evaluate", "paper", "--quick", "--figures", "table-1", "--out", out)
    assert done.returncode == 2
    assert f"--out {out}" in done.stderr


def test_the_folder_may_be_the_one_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = octavo("evaluate", "paper", "--quick", "--figures", "table-1", "--out", ".")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here.md").exists()


def test_a_quick_run_does_not_replace_a_full_one(tmp_path: Path) -> None:
    asked = ("evaluate", "paper", "--figures", "table-1", "--out", str(tmp_path))
    assert octavo(*asked).returncode == 0
    before = (tmp_path / "table-1.json").read_bytes()
    refused = octavo(*asked, "--quick")
    assert refused.returncode == 2
    assert "--again" in refused.stderr
    assert (tmp_path / "table-1.json").read_bytes() == before
    assert octavo(*asked, "--quick", "--again").returncode == 0


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
    assert "| table-1 | OPT-13B, KV of a token | 800 KB |  | 800 KB |  | yes |" in done.stdout
    assert (tmp_path / "out.md").read_text() == done.stdout
    assert "](out/table-1.svg)" in done.stdout
    assert json.loads((out / "table-1.json").read_text())["quick"] is True
    assert (out / "table-1.svg").exists()


@pytest.mark.parametrize(("flags", "told"), [(("--figures", "99"), "figure-12"), (("--processes", "0"), "--processes")])
def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    done = octavo("evaluate", "paper", *flags, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert told in done.stderr


def made_up(name: str, job: Job) -> Any:
    """What a part could have given."""
    if name == "table-1":
        return {"parameter_gb": 1.0, "num_slots": 9, "slot_kb": 800.0}
    if name == "figure-1":
        return {"running": 3.0, "used": 0.5, "output_tok_s": 100.0}
    if name == "figure-2":
        shares = {"token_states": 0.4, "reserved": 0.3, "internal": 0.2, "external": 0.1, "paper_percent": 38.2}
        return [{"allocation": each, "num_steps": 3, "mean_running": 2.0, **shares} for each in ALLOCATIONS]
    if name == "figure-15":
        case = {"kind": job.arguments[0], "method": job.arguments[1], "sequences": job.arguments[2], "paper": None}
        return {**case, "requests": 4, "steps": 9, "ledger": 20.0, "offline": 20.0}
    if name == "figure-18" and job.is_measured:
        return {f"{rows} x {context} tokens": 1e-3 for rows in figure_18.ROWS for context in figure_18.CONTEXTS}
    if name == "figure-19" and job.key.split("/")[0] not in figure_19.MODES:
        blocks = {"block_size": job.arguments[0], "num_tokens": 256, "num_blocks": 16, "block_bytes": 9}
        return {**blocks, "recompute_ms": 2.0, "swap_out_ms": 1.0, "swap_in_ms": 1.0}
    curve = {"points": [(1.0, 0.1), (2.0, 0.4)], "sustained": 1.0, "running": 3.0}
    if name == "figure-12-measured":
        return {"latency_s": 0.05, "curves": dict.fromkeys(SYSTEMS, curve)}
    return curve if isinstance(FIGURES[name], RateCurves) else 0.5


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_claims_and_is_drawn(name: str, quick: bool, tmp_path: Path) -> None:
    """With made-up results: those that its parts would give."""
    results = {job.key: made_up(name, job) for job in FIGURES[name].jobs(quick)}
    if not results:
        assert quick
        assert name == "figure-12-measured"
        return
    claims = FIGURES[name].claims(results)
    assert all(claim.verdicts for claim in claims)
    assert all("{" not in claim.text and claim.told for claim in claims)
    assert claims
    draw(name, results, tmp_path)
    assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("low", "high", "told", "holding"),
    [
        (2, 2, "2x", 2.0),
        (2, 3, "2 to 3x", 2.5),
        (2, math.inf, "at least 2x", 5.0),
        (-math.inf, 2, "at most 2x", 1.0),
    ],
)
def test_a_claim_is_a_figure_a_range_or_a_bound(low: float, high: float, told: str, holding: float) -> None:
    claim = Claim(figure="f", text="", unit="x", low=low, high=high, simulated=holding, measured=1.9)
    assert claim.told == told
    assert claim.verdicts == [True, low < 1.9 < high]


def test_samples_and_beams_gain_from_sharing_and_prompts_behind_a_prefix_more() -> None:
    """Requests that run at once, paged over reserved for their true lengths."""

    def gain(setup: Setup, workload: Workload, rate: float, **paged_knobs: Any) -> float:
        oracle = served(setup, ORCA_ORACLE, workload, rate, 300).figures()
        paged = served(setup, PAGED, workload, rate, 300, **paged_knobs).figures()
        assert oracle.hit_tokens == 0
        return paged.mean_running / oracle.mean_running

    one, beams = (gain(OPT_13B, Workload("alpaca", decoding=each), 60.0) for each in (Decoding(), Decoding("beam", 6)))
    assert beams > 1.3 * one
    behind = Workload(TRANSLATION, prefix_tokens=341)
    assert gain(LLAMA_13B, behind, 60.0, prefix_cache_scope="tenant") > 1.2 * gain(LLAMA_13B, behind, 60.0)


def test_most_prompts_of_a_chat_are_as_long_as_it_keeps() -> None:
    prompts, outputs = zip(*pairs(CHAT, 2000), strict=True)
    assert max(prompts) == MOST_HISTORY
    assert sum(each == MOST_HISTORY for each in prompts) > 1000
    assert max(outputs) <= 1024
    assert min(outputs) >= 1


def test_all_systems_serve_here_for_real_with_one_executor() -> None:
    """Also after a run that was given up."""
    knobs = {"max_model_len": 256, "kv_cache_memory": 12 << 20, "max_num_seqs": 8}
    arrivals = list(Workload("alpaca", scale=0.4).arrivals(6, math.inf))
    with loaded(**knobs) as (config, executor):
        machine = ServedHere(config, executor)
        for system in SYSTEMS:
            machine.serve(system, arrivals, lambda tally: tally.counts["steps"] == 0)
            figures = machine.serve(system, arrivals).figures()
            assert (figures.requests, figures.refused) == (6, 0)
            assert 0 < figures.mean_running <= (2 if system == FASTER_TRANSFORMER else 8)


def test_parts_that_take_times_come_last_and_in_this_process(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [("toy", Job("a", (1, True), is_measured=True)), ("table-1", Job("OPT-13B"))]
    told: list[str] = []
    run_jobs(jobs, tmp_path, True, 2, told.append)
    assert told == ["table-1 OPT-13B", "toy a"]
    assert toy.num_run == 1, "in this process, which has the toy"
