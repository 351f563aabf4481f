#!/usr/bin/env python3
"""Octavo on a CUDA GPU: is it right, and how near to what the device can do. One command, no network.

    PYTHONPATH=src python benchmarks/gpu.py --json gpu.json
    PYTHONPATH=src python benchmarks/gpu.py --toy       # without a GPU: everything once, in Triton's interpreter

Needs torch, triton, safetensors, msgspec and numpy; transformers for its own figure. Octavo need not be installed: its
source beside this folder will do. Weights are random, of the shapes of LLaMA-3-8B, LLaMA-2-13B and OPT-13B. Figures are
written after each of them, so a run that is cut off still tells something. The parts run in a process of their own,
which is ended where a part outlasts its time; a fault of the device then costs one part.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "src"))  # where Octavo is not installed

from gpu_parts.parts import PARTS, Part
from gpu_parts.worker import Asked, work

SPAWN = multiprocessing.get_context("spawn")


class Report:
    """What has been told, in a file from the first figure on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: dict[str, dict[str, Any]] = {}

    def add(self, part: str, name: str, figure: Any) -> None:
        """Write all figures, then print the new one."""
        self.told.setdefault(part, {})[name] = figure
        self.write()
        print(part, name, json.dumps(figure), flush=True)

    def write(self) -> None:
        """Write all of them."""
        # A reader, or a run that is cut off, never finds half a file.
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.told, indent=1))
        unfinished.replace(self.path)


class Worker:
    """The process in which parts run. It is started again where it had to be ended."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def run(self, part: Part, limit_s: float, report: Report) -> None:
        """Run a part, for so many seconds at the most."""
        start_s, connection, failed = time.monotonic(), self._connected(), False
        try:
            connection.send((part.function, limit_s, report.told))
            while connection.poll(max(0.0, start_s + limit_s - time.monotonic())):
                message = connection.recv()
                if message is None:
                    report.add(part.name, "seconds", round(time.monotonic() - start_s, 1))
                    if failed:  # after a fault of the device nothing in that process would work
                        self.end()
                    return
                report.add(part.name, *message)
                if message[0] == "cannot start":
                    self.end()
                    sys.exit(1)  # nor would any other part
                failed |= message[0] == "error"
            report.add(part.name, "cut", f"it outlasted its {limit_s:.0f} s")
        except (EOFError, OSError):
            report.add(part.name, "died", f"the process ended after {time.monotonic() - start_s:.0f} s")
        self.end()

    def _connected(self) -> Connection:
        if self._connection is None:
            ensure_running()  # what a first start does would unblock the signal
            # Of Ctrl-C this process is told; the parts' is ended.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._connection, theirs = SPAWN.Pipe()
            self._process = SPAWN.Process(target=work, args=(theirs, self._asked), daemon=False)
            self._process.start()
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self._connection

    def end(self, patience_s: float = 0.0) -> None:
        """End the process, if there is one: whatever it is doing, once it has had so long to end by itself."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.join(patience_s)
            self._process.kill()
            self._process.join()
        self._process = self._connection = None


def main() -> None:
    arguments = parse()
    if arguments.toy:
        os.environ["TRITON_INTERPRET"] = "1"
    deadline_s = time.monotonic() + arguments.budget_s
    report = Report(arguments.json)
    try:
        report.write()
    except OSError as error:
        sys.exit(f"gpu.py: --json {report.path} cannot be written: {error.strerror}")
    worker = Worker(Asked(arguments.toy, arguments.pool))
    try:
        if arguments.toy:
            report.add("toy", "note", "a toy in Triton's interpreter on the CPU: its figures mean nothing")
        run(arguments, worker, report, deadline_s)
    except KeyboardInterrupt:
        worker.end()
        print(f"gpu.py: interrupted; {report.path} has what was told until then", file=sys.stderr)
        sys.exit(130)
    worker.end(patience_s=10)


def run(arguments: argparse.Namespace, worker: Worker, report: Report, deadline_s: float) -> None:
    """Run the parts that are asked for, while there is time."""
    for part in PARTS:
        if part.name not in arguments.parts:
            continue
        left_s = max(0.0, deadline_s - time.monotonic())
        if left_s <= (0 if arguments.toy else part.least_s):
            report.add(part.name, "skipped", f"{left_s:.0f} s of the budget are left, it needs {part.least_s:.0f}")
            continue
        worker.run(part, left_s if arguments.toy else min(left_s, part.most_s), report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and measure Octavo on a CUDA GPU.")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help="default: gpu.json")
    parser.add_argument("--budget-s", type=float, default=480, metavar="SECONDS", help="of all parts (default: 480)")
    parser.add_argument("--pool", type=int, default=64, metavar="GIB", help="memory for kernels' blocks (default: 64)")
    default = [part.name for part in PARTS if part.is_default]
    parser.add_argument(
        "--parts", nargs="+", choices=[part.name for part in PARTS], default=default, metavar="PART",
        help=f"of {', '.join(part.name for part in PARTS)}; all but sweep by default",
    )  # fmt: skip
    parser.add_argument("--toy", action="store_true", help="everything once at toy size, without a GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
