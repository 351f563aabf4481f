"""`octavo serve` under the name that people have in their scripts: `python -m octavo.entrypoints.openai.api_server`."""

import argparse
import sys

from octavo.cli.main import main


def serve(arguments: list[str]) -> int:
    """Run `octavo serve` with the same flags; the exit status is its own."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    known, rest = parser.parse_known_args(arguments)
    if known.tensor_parallel_size != 1:
        print("octavo: --tensor-parallel-size must be 1: the model runs in one process", file=sys.stderr)
        return 2
    return main(["serve", *rest])


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
