"""`benchmarks/peers.py`, with peers that are small scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tiny_checkpoints import make_llama

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "peers.py"

RUNNER = r"""#!/usr/bin/env bash
echo "$1" >> "$PEERS_HOME/order"
case $1 in
  fast) echo noise; echo '{"precision": "f32", "output_tok_s": 1e9, "single_stream_tok_s": 1e9, "load_s": 1}';;
  slow-int8) echo '{"precision": "int8", "output_tok_s": 0.001, "single_stream_tok_s": 0.001, "load_s": 2}';;
  slow-f32) echo '{"precision": "fp16", "output_tok_s": 0.001, "single_stream_tok_s": 0.001, "load_s": 2}';;
  deadly) [ -e "$PEERS_HOME/seen" ] && { kill -9 $PPID; exit 1; }
          touch "$PEERS_HOME/seen"; echo '{"output_tok_s": 5, "single_stream_tok_s": 5, "load_s": 1}';;
  fickle) [ -e "$PEERS_HOME/seen" ] && { echo "out of luck" >&2; exit 3; }
          touch "$PEERS_HOME/seen"; echo '{"output_tok_s": 5, "single_stream_tok_s": 5, "load_s": 1}';;
  openvino-int8) size=$(cat "$PEERS_HOME/ov-int8/size")
         echo "{\"output_tok_s\": $size, \"single_stream_tok_s\": 5, \"load_s\": 1}";;
  mute) echo '{"note": "no figures"}';;
  leaky) sleep 600 > /dev/null 2>&1 & echo $! > "$PEERS_HOME/child"
         echo '{"output_tok_s": 5, "single_stream_tok_s": 5, "load_s": 1}';;
esac
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the peers are installed: all but `absent`."""
    for peer in ("fast", "slow", "fickle", "mute", "leaky", "deadly", "openvino"):
        python = tmp_path / peer / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    return tmp_path


@pytest.fixture
def peers(home: Path) -> Run:
    """Runs the script with a runner of the peers and, unless it is to fail at once, a tiny model of Octavo's own."""
    (home / "run.sh").write_text(RUNNER)
    (home / "run.sh").chmod(0o755)
    (home / "work.json").write_text(json.dumps([{"ids": [5, 6, 7], "out": 8}]))
    model = make_llama(home / "tiny", max_position_embeddings=512)
    flags = f"tiny: --model {model} --tokenizer smollm2 --kv-cache-memory 8MiB"

    def run(
        *arguments: str, workloads: tuple[str, ...] = ("work.json",), octavo: bool = True
    ) -> subprocess.CompletedProcess[str]:
        paths = [str(home / workload) for workload in workloads]
        own = flags if octavo else "none: --requests 0"
        command = [sys.executable, str(SCRIPT), *paths, "--peers-dir", str(home), "--octavo", own]
        environment = {**os.environ, "PEERS_HOME": str(home)}
        return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_rounds_are_interleaved_and_medians_and_ratios_written(peers: Run, home: Path) -> None:
    done = peers("--peers", "fast", "slow-int8", "absent", "--rounds", "2", "--json", str(home / "out.json"))
    assert done.returncode == 0, done.stderr
    assert (home / "order").read_text().split() == ["fast", "slow-int8", "fast", "slow-int8"]
    assert "absent is not installed" in done.stderr
    (figures,) = json.loads((home / "out.json").read_text())
    assert {name: len(rounds) for name, rounds in figures["rounds"].items()} == {
        "octavo tiny": 2,
        "fast": 2,
        "slow-int8": 2,
    }
    assert figures["medians"]["slow-int8"]["load_s"] == 2
    ratios = figures["ratios"]["octavo tiny"]
    assert ratios["fast"]["output_tok_s"] < 1 < ratios["slow-int8"]["output_tok_s"]
    assert "octavo tiny divided by" in done.stdout


def test_a_peer_that_wins_at_the_same_precision_is_named(peers: Run, home: Path) -> None:
    """Octavo's tiny model is float32, so only `fast` is its rival."""
    done = peers("--peers", "fast", "slow-int8", "--rounds", "1", "--json", str(home / "out.json"))
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((home / "out.json").read_text())
    assert [loss.split(":")[0] for loss in figures["losses"]] == [
        "fast wins in output_tok_s (float)",
        "fast wins in single_stream_tok_s (float)",
    ]
    assert "fast wins in output_tok_s" in done.stdout
    done = peers("--peers", "slow-f32", "slow-int8", "--rounds", "1")
    assert "no row where a peer wins at the same precision" in done.stdout


def test_workloads_are_measured_one_after_another(peers: Run, home: Path) -> None:
    (home / "more.json").write_text(json.dumps([{"ids": [8], "out": 3}]))
    done = peers(
        "--peers", "slow-f32", "--rounds", "1", "--json", str(home / "out.json"), workloads=("work.json", "more.json")
    )
    assert done.returncode == 0, done.stderr
    assert [Path(each["workload"]).name for each in json.loads((home / "out.json").read_text())] == [
        "work.json",
        "more.json",
    ]
    assert done.stdout.count("no row where a peer wins") == 2


def test_a_checkpoint_is_run_by_peers_under_the_name_of_their_model(peers: Run, home: Path) -> None:
    for form in ("hf", "ov-int8", "ov-int4"):
        (home / "checkpoint" / form).mkdir(parents=True)
        (home / "checkpoint" / form / "size").write_text(form[-1])
    (home / "order").touch()
    checkpoint = ("--checkpoint", str(home / "checkpoint"))
    done = peers(*checkpoint, "--rounds", "1", "--json", str(home / "out.json"))
    assert done.returncode == 0, done.stderr
    (report,) = json.loads((home / "out.json").read_text())
    rows = {
        name: (row["output_tok_s"], row["precision"]) for name, (row,) in report["rounds"].items() if "vino" in name
    }
    assert rows == {"openvino-int8": (8, "int8"), "openvino-int4": (4, "int4")}
    assert "llamacpp-q4_k_m is not installed" in done.stderr


def test_what_was_measured_is_kept_when_the_run_is_cut_off(peers: Run, home: Path) -> None:
    """The second round ends the script itself."""
    done = peers("--peers", "fast", "deadly", "--rounds", "3", "--json", str(home / "out.json"), octavo=False)
    assert done.returncode != 0
    (figures,) = json.loads((home / "out.json").read_text())
    assert {name: len(rounds) for name, rounds in figures["rounds"].items()} == {"fast": 1, "deadly": 1}


def test_a_peer_that_fails_is_reported_and_left_out_from_then_on(peers: Run, home: Path) -> None:
    done = peers("--peers", "fickle", "mute", "fast", "--rounds", "3", "--json", str(home / "out.json"), octavo=False)
    assert done.returncode == 0, done.stderr
    assert (home / "order").read_text().split() == ["fickle", "mute", "fast", "fickle", "fast", "fast"]
    assert "out of luck" in done.stderr
    assert "no line of figures" in done.stderr
    rounds = json.loads((home / "out.json").read_text())[0]["rounds"]
    assert {name: len(figures) for name, figures in rounds.items()} == {"fast": 3, "fickle": 1}


def test_what_a_peer_leaves_running_is_ended(peers: Run, home: Path) -> None:
    done = peers("--peers", "leaky", "--rounds", "1", octavo=False)
    assert done.returncode == 0, done.stderr
    child = int((home / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rounds", "0"), "--rounds must be at least 1"),
        (("--peers-dir", "/nowhere"), "no run.sh in --peers-dir /nowhere"),
        (("--json", "/no/such/folder/x.json"), "no folder for --json"),
    ],
)
def test_bad_flags_are_refused_before_anything_runs(
    peers: Run, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = peers(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (home / "order").exists()


def test_a_workload_that_is_not_there_is_refused(peers: Run) -> None:
    done = peers(workloads=("work.json", "missing.json"))
    assert done.returncode == 2
    assert "there is no workload" in done.stderr
