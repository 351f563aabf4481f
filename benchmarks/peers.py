#!/usr/bin/env python3
"""Octavo and its peers on workload files: one process a repeat, in interleaved rounds; medians, ratios, who wins.

    python benchmarks/peers.py work.json more.json                        # whatever peers are installed, five rounds
    python benchmarks/peers.py work.json --peers openvino-int8 --rounds 3 --octavo "int8: --quantization int8"

The peers' runner (`run.sh PEER WORKLOAD`, which prints one line of JSON) is looked for in --peers-dir. Nothing else
should run on the machine: what counts are ratios of figures taken in one run. With --json, what has been measured is
written after every round.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("PEERS_HOME", Path.home() / ".cache" / "octavo-peers"))
PEERS = ("openvino-int8", "openvino-f32", "vllm", "llamacpp-q4", "llamacpp-q8", "transformers")
OCTAVO = (
    "int8: --quantization int8 --prefix-cache-scope off",
    "int8-kv8: --quantization int8 --kv-cache-dtype int8 --prefix-cache-scope off",  # as OpenVINO's default
    "bf16: --dtype bfloat16 --quantization none --prefix-cache-scope off",
)
PRECISIONS = {
    "int8": "int8",
    "q8": "int8",
    "int4": "4 bits",
    "q4": "4 bits",
    "f32": "float",
    "fp16": "float",
    "bf16": "float",
}
"""The group of rows that are compared, by the precision of a row's weights; others stand alone."""
FIGURES = ("output_tok_s", "single_stream_tok_s")
TIMEOUT_S = 1800
OWN = "octavo "
"""What the names of Octavo's configurations begin with."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form of a checkpoint that a peer can be made to run in place of smollm2."""

    file: str
    """Within the checkpoint's folder."""
    peer: str
    """As run.sh calls it."""
    model: str
    """The model that this peer runs, within its home."""
    precision: str


FORMS = {
    "openvino-int8": Form("ov-int8", "openvino-int8", "ov-int8", "int8"),
    "openvino-int4": Form("ov-int4", "openvino-int8", "ov-int8", "int4"),
    "llamacpp-q8_0": Form("Q8_0.gguf", "llamacpp-q8", "smollm2-Q8_0.gguf", "q8"),
    "llamacpp-q4_0": Form("Q4_0.gguf", "llamacpp-q4", "smollm2-Q4_0.gguf", "q4"),
    "llamacpp-q4_k_m": Form("Q4_K_M.gguf", "llamacpp-q4", "smollm2-Q4_0.gguf", "q4"),
}
"""The peers of a checkpoint made by shape_checkpoint.py."""

Figures = dict[str, Any]
"""A row: a number for each of `FIGURES` and `load_s`, and maybe the `precision` of its weights."""
Rows = dict[str, list[Figures]]
Report = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "workload", nargs="+", help="as made by make_workload.py of the peers' folder; one after another"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each one runs (default: 5)")
    parser.add_argument(
        "--peers",
        nargs="*",
        help=f"default: those installed of {', '.join(PEERS)}; of a checkpoint {', '.join(FORMS)}",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FOLDER", help="as made by shape_checkpoint.py, in place of smollm2"
    )
    parser.add_argument("--peers-dir", type=Path, default=ROOT.parent / "shared" / "peers", help="the folder of run.sh")
    parser.add_argument(
        "--octavo", action="append", metavar="'NAME: FLAGS'", help=f"a configuration; default: {' and '.join(OCTAVO)}"
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    for workload in arguments.workload:
        if not Path(workload).is_file():
            parser.error(f"there is no workload {workload}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not (arguments.peers_dir / "run.sh").is_file():
        parser.error(f"there is no run.sh in --peers-dir {arguments.peers_dir}")
    if arguments.checkpoint and not (arguments.checkpoint / "hf").is_dir():
        parser.error(f"--checkpoint {arguments.checkpoint} has no folder hf: shape_checkpoint.py makes one")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"there is no folder for --json {arguments.json}")
    done: list[Report] = []
    for workload in arguments.workload:
        for rows in measure(commands_of(arguments, workload), arguments.rounds):
            report = report_of(workload, rows)
            if arguments.json:
                arguments.json.write_text(json.dumps([*done, report], indent=1) + "\n")
        done.append(report)
        print_report(report)


def commands_of(arguments: argparse.Namespace, workload: str) -> dict[str, list[str]]:
    """What to run, by name: Octavo's configurations, then the peers that are installed."""
    path = str(Path(workload).resolve())
    checkpoint: Path | None = arguments.checkpoint and arguments.checkpoint.resolve()
    model = ["--model", str(checkpoint / "hf"), "--tokenizer", "smollm2"] if checkpoint else []
    commands = {}
    for entry in arguments.octavo or OCTAVO:
        name, _, flags = entry.partition(":")
        benchmark = [sys.executable, "-m", "octavo.cli.main", "bench", "throughput", "--workload", path, *model]
        commands[OWN + name.strip()] = [*benchmark, *shlex.split(flags)]
    runner = str(arguments.peers_dir.resolve() / "run.sh")
    for peer in (FORMS if checkpoint else PEERS) if arguments.peers is None else arguments.peers:
        home = HOME / peer.split("-")[0]
        if not (home / "bin" / "python").exists():
            print(f"{peer} is not installed in {HOME}: left out", file=sys.stderr)
        elif checkpoint is None:
            commands[peer] = [runner, peer, path]
        elif peer not in FORMS or not (checkpoint / FORMS[peer].file).exists():
            print(f"{checkpoint} has no form for {peer}: left out", file=sys.stderr)
        else:
            linked = linked_home(checkpoint, peer)
            commands[peer] = ["env", f"PEERS_HOME={linked}", runner, FORMS[peer].peer, path]
    return commands


def linked_home(checkpoint: Path, peer: str) -> Path:
    """A home for a peer, of links: to its environment, and to a checkpoint's form under the name of smollm2's."""
    form = FORMS[peer]
    home = checkpoint / "homes" / peer
    home.mkdir(parents=True, exist_ok=True)
    environment = peer.split("-")[0]
    for link, target in ((home / environment, HOME / environment), (home / form.model, checkpoint / form.file)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return home


def measure(commands: dict[str, list[str]], rounds: int) -> Iterator[Rows]:
    """Run every command once a round, in turn; gives all rows so far after each round. A command that fails is reported
    and left out from then on; what it gave before stays."""
    rows: Rows = {}
    failed: set[str] = set()
    for number in range(1, rounds + 1):
        for name, command in commands.items():
            if name in failed:
                continue
            start_s = time.monotonic()
            try:
                figures = run_alone(command)
                if command[0] == "env":  # the peer knows the model under the name of another
                    figures["precision"] = FORMS[name].precision
            except (OSError, RuntimeError) as error:
                print(f"round {number} of {rounds}: {name} failed, left out from here on: {error}", file=sys.stderr)
                failed.add(name)
                continue
            rows.setdefault(name, []).append(figures)
            shown = ", ".join(f"{figure} {figures[figure]}" for figure in FIGURES)
            took_s = time.monotonic() - start_s
            print(f"round {number} of {rounds}: {name}: {shown} ({took_s:.0f} s)", file=sys.stderr, flush=True)
        yield rows


def run_alone(command: list[str]) -> Figures:
    """The line of JSON that a fresh process prints.

    Whatever happens, nothing that it started outlives it: a server left over would slow all that comes after.

    Raises:
        RuntimeError: it fails, takes too long or prints no such line.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it took over {TIMEOUT_S} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}\n{err[-2000:]}")
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            figures = json.loads(line)
            if isinstance(figures, dict) and set(FIGURES) <= figures.keys():
                return figures
    raise RuntimeError(f"no line of figures among what it printed\n{out[-2000:]}")


def report_of(workload: str, rows: Rows) -> Report:
    """All that is known of a workload."""
    ratios = ratios_of(rows)
    return {
        "workload": workload,
        "medians": medians_of(rows),
        "ratios": ratios,
        "losses": losses_of(rows, ratios),
        "rounds": rows,
    }


def medians_of(rows: Rows) -> dict[str, Figures]:
    """Each one's medians over the rounds."""
    return {
        name: {figure: statistics.median(each[figure] for each in figures) for figure in (*FIGURES, "load_s")}
        for name, figures in rows.items()
    }


def ratios_of(rows: Rows) -> dict[str, dict[str, Figures]]:
    """For each configuration of Octavo and each peer, the median over the rounds of the one's figure by the other's."""
    ratios: dict[str, dict[str, Figures]] = {name: {} for name in rows if name.startswith(OWN)}
    for name, by_peer in ratios.items():
        for peer in (peer for peer in rows if peer not in ratios):
            rounds = list(zip(rows[name], rows[peer], strict=False))
            by_peer[peer] = {
                figure: round(statistics.median(own[figure] / other[figure] for own, other in rounds), 3)
                for figure in FIGURES
            }
    return ratios


def losses_of(rows: Rows, ratios: dict[str, dict[str, Figures]]) -> list[str]:
    """The peers' figures that none of Octavo's configurations in the same precision reaches."""
    losses = []
    for peer in (peer for peer in rows if peer not in ratios):
        rivals = [name for name in ratios if group_of(rows[name]) == group_of(rows[peer])]
        for figure in FIGURES if rivals else ():
            best = max(rivals, key=lambda name: ratios[name][peer][figure])
            if ratios[best][peer][figure] < 1:
                losses.append(
                    f"{peer} wins in {figure} ({group_of(rows[peer])}): {best} is at {ratios[best][peer][figure]}"
                )
    return losses


def group_of(figures: list[Figures]) -> str:
    """What a row is compared with: the same precision, where it tells one."""
    precision = str(figures[0].get("precision", "unknown"))
    return PRECISIONS.get(precision.lower(), precision)


def print_report(report: Report) -> None:
    """The medians, the ratios of each configuration of Octavo, and who wins."""
    print(f"{report['workload']}\n{'medians':18} {'output tok/s':>13} {'single stream':>14} {'ready after':>12}")
    for name, median in report["medians"].items():
        print(f"{name:18} {median[FIGURES[0]]:13.1f} {median[FIGURES[1]]:14.1f} {median['load_s']:10.1f} s")
    for name, by_peer in report["ratios"].items():
        print(f"\n{name} divided by")
        for peer, ratio in by_peer.items():
            print(f"  {peer:16} {ratio[FIGURES[0]]:13.2f} {ratio[FIGURES[1]]:14.2f}")
    nothing = "no row where a peer wins at the same precision" if report["ratios"] else "no row of Octavo's to compare"
    print("\n" + "\n".join(report["losses"] or [nothing]) + "\n", flush=True)


if __name__ == "__main__":
    main()
