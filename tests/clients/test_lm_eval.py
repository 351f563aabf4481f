"""lm-eval's local-completions model on a task of its own making: scores by log likelihood, and generated answers."""

import json
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval")

from e2e.server_process import Server

pytestmark = pytest.mark.clients

CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid", "Egypt": "Cairo", "Peru": "Lima"}
CHOICES = """
task: capitals_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}]
"""
GENERATED = """
task: capitals_generate
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "The capital of {{country}} is"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
filter_list: [{name: first, filter: [{function: regex, regex_pattern: "([A-Z][a-z]+)"}, {function: take_first}]}]
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    names = list(CAPITALS.values())
    data = tmp_path / "capitals.jsonl"
    rows = [{"country": country, "choices": names, "answer": names.index(name)} for country, name in CAPITALS.items()]
    data.write_text("".join(json.dumps(row) + "\n" for row in 4 * rows))
    for name, text in (("choice", CHOICES), ("generate", GENERATED)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return tmp_path


def evaluate(server: Server, tasks: Path, task: str, **settings: Any) -> dict[str, Any]:
    """The task's metrics. 24 questions of 6 choices make 144 scored prompts, sent 96 at a time."""
    arguments = {"model": "smollm2", "base_url": f"{server.url}/completions", "tokenizer_backend": "remote", **settings}
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=arguments,
        tasks=[task],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=96,
        bootstrap_iters=0,
        log_samples=False,
    )
    metrics: dict[str, Any] = found["results"][task]
    return metrics


def test_choices_are_scored_by_their_log_likelihood(server: Server, tasks: Path) -> None:
    assert evaluate(server, tasks, "capitals_choice")["acc,none"] >= 0.8


def test_answers_are_generated(server: Server, tasks: Path) -> None:
    """Four of the six: SmolLM2 scores Egypt's and Peru's best, and writes others."""
    assert evaluate(server, tasks, "capitals_generate")["exact_match,first"] == pytest.approx(4 / 6)
