"""Compiles every kernel of the Triton backend for an H100, in every class of shapes, and prints what each takes.

    python tests/kernels/triton/gpu_check.py            # make gpu-check, with each version of Triton
    python tests/kernels/triton/gpu_check.py --quick    # a few shapes: make test

Ends with 1 where a kernel spills, takes more shared memory than there is, or is never compiled.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

import triton

import octavo.kernels.triton as package
from kernels.triton.compiling import Check, Compiled, Waiting, compile_launches, launched_kernels
from kernels.triton.launches import QUICK, all_jobs
from kernels.triton.shapes import AXES, Job, Shape


def compile_job(job: Job) -> list[Compiled | Waiting]:
    """All that one job launches."""
    return list(compile_launches(job.cases()))


def compile_jobs(jobs: list[Job], num_processes: int) -> Iterator[Compiled | Waiting]:
    """All that some jobs launch, in as many processes."""
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        for found in pool.imap_unordered(compile_job, jobs):
            yield from found


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the Triton kernels for an H100.")
    parser.add_argument("--quick", action="store_true", help="a few shapes only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes (default: all cores)")
    arguments = parser.parse_args()
    start_s = time.perf_counter()
    for refusal in dict.fromkeys(Shape(**each).refusal for each in AXES["numbers"]):
        if refusal is not None:
            print(f"refused, and not compiled: {refusal}")
    check = Check(launched_kernels(package))
    for found in compile_jobs(QUICK if arguments.quick else all_jobs(), arguments.jobs):
        if isinstance(found, Compiled):
            check.compiled.append(found)
        print(found, flush=True)
    for fault in check.faults:
        print(f"FAULT: {fault}")
    print(
        f"triton {triton.__version__}: {len(check.launched)} kernels, compiled {len(check.compiled)} times in "
        f"{time.perf_counter() - start_s:.0f} s, {len(check.faults)} faults"
    )
    return 1 if check.faults else 0


if __name__ == "__main__":
    sys.exit(main())
