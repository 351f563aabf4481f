"""The commands: one as a process of its own, the others in this one."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cli.commands import octavo
from octavo.cli.streams import StreamPrinter
from tiny_checkpoints import make_checkpoint


def test_generate_streams_n_samples_of_each_prompt_and_tells_what_the_memory_did():
    flags = ["generate", "-n", "2", "--max-tokens", "12", "--ignore-eos"]
    command = [sys.executable, "-m", "octavo.cli.main", *flags, "The capital of France is", "One, two,"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels = {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert labels == {"1.1", "1.2", "2.1", "2.2"}
    assert "48 tokens in" in done.stderr
    assert "shared" in done.stderr
    assert "0 of" in done.stderr.splitlines()[-1]


def test_generate_answers_a_chat_from_standard_input_bare():
    done = octavo(
        *("generate", "--chat", "--temperature", "0", "--max-tokens", "40"),
        stdin="What is the capital of Japan?",
    )
    assert done.returncode == 0, done.stderr
    assert "Tokyo" in done.stdout
    assert "│" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "--kv-cache-memory", "lots", "Hi"], "--kv-cache-memory is 'lots'"),
        (["generate", "--temperature", "-1", "Hi"], "temperature must be"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "--model", "/nowhere", "Hi"], "--model"),
        (["doctor", "--max-model-len", "100000"], "8192"),
        (["bench", "scheduler", "--sequences", "0"], "--sequences"),
    ],
)
def test_a_wrong_flag_is_one_clear_line_and_no_traceback(arguments, words):
    done = octavo(*arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_doctor_tells_machine_kernels_and_what_the_model_takes():
    done = octavo("doctor", "--kv-cache-memory", "1GiB", "--dtype", "float32", "--quantization", "none")
    assert done.returncode == 0, done.stderr
    for words in (
        "Kernels 'cpu'",
        "built, run in",
        f"{os.cpu_count()} in the machine",
        "LlamaForCausalLM",
        "513.1 MiB",
        "45.0 KiB",
        "1,456 (1,024 MiB)",
        "--max-num-seqs",
    ):
        assert words in done.stdout


def test_doctor_tells_what_windows_give_back(tmp_path):
    sliding: dict[str, Any] = {
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 2,
        "num_hidden_layers": 9,
    }
    folder = make_checkpoint(tmp_path, "Qwen2ForCausalLM", max_position_embeddings=4096, **sliding)
    knobs = ("--kv-cache-memory", "10MiB", "--dtype", "float32", "--max-num-batched-tokens", "256")
    done = octavo("doctor", "--model", str(folder), *knobs)
    assert done.returncode == 0, done.stderr
    for words in (
        "1.2 KiB in float32",
        "0.2 KiB once a sequence outgrows the windows",
        "1.0 MiB at 4096 tokens; without windows it would be 5.0 MiB",
        "1 of 2 layers that see all tokens; 3 of 2 layers that see the last 7; 1 of 1 layer that see",
        "(and room for 1 more: 2.0 KiB of a block are empty)",
        "of sequences within the windows",
        "9 at the full 4096 tokens",
    ):
        assert words in done.stdout
    contiguous = octavo("doctor", "--model", str(folder), *knobs, "--kv-allocation", "contiguous-max")
    assert "2 at the full 4096 tokens, 2 of 512 tokens" in contiguous.stdout
    assert "outgrows" not in contiguous.stdout
    without = octavo("doctor", "--model", str(folder), *knobs, "--max-model-len", "7")
    assert "outgrows" not in without.stdout
    assert "layer groups" not in without.stdout


def test_bench_scheduler_prints_a_table_and_writes_json_and_a_plot(tmp_path):
    figures, drawing = tmp_path / "cost.json", tmp_path / "cost.png"
    done = octavo(
        "bench", "scheduler", "--sequences", "4", "8", "--tokens", "50", "--json", str(figures), "--plot", str(drawing)
    )
    assert done.returncode == 0, done.stderr
    assert [row["num_sequences"] for row in json.loads(figures.read_text())] == [4, 8]
    assert all(row["schedule_us"] > 0 for row in json.loads(figures.read_text()))
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert len(done.stdout.splitlines()) == 3


def test_every_command_explains_itself():
    for arguments in ([], ["generate"], ["doctor"], ["bench"], ["bench", "scheduler"]):
        done = octavo(*arguments, "--help")
        assert done.returncode == 0
        assert "usage: octavo" in done.stdout


def test_streams_are_printed_by_whole_lines_behind_their_labels(capsys):
    printer = StreamPrinter({(0, 0): "1.1", (0, 1): "1.2"}, sys.stdout)
    printer.add((0, 0), "first ", False)
    printer.add((0, 1), "other\nline", False)
    printer.add((0, 0), "line\n\nlast", True)
    printer.add((0, 1), "", True)
    assert capsys.readouterr().out.splitlines() == [
        "1.2 │ other",
        "1.1 │ first line",
        "1.1 │ ",
        "1.1 │ last",
        "1.2 │ line",
    ]


def test_a_long_line_is_cut_at_a_space_and_loses_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    printer = StreamPrinter({(0, 0): "1.1", (0, 1): "1.2"}, sys.stdout)
    words = " ".join(f"word{i}" for i in range(60))
    for start in range(0, len(words), 7):
        printer.add((0, 0), words[start : start + 7], False)
    printer.add((0, 0), "", True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 50
    assert " ".join(line.removeprefix("1.1 │ ") for line in lines) == words
