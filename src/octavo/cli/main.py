"""`octavo`: finds the command and turns Octavo's own errors into one clear line. Heavy imports wait until a command
runs."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence

from octavo import __version__
from octavo.cli import bench, calibrate, chat, doctor, evaluate, generate, serve, simulate
from octavo.errors import OctavoError
from octavo.vllm.flags import FlexibleArgumentParser


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = FlexibleArgumentParser(
        prog="octavo",
        description="Serve large language models from a paged key-value cache.",
        epilog="octavo COMMAND --help explains a command's flags.",
    )
    parser.add_argument("--version", action="version", version=f"octavo {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log what the engine decides, preemptions for one")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module in (serve, chat, generate, doctor, bench, simulate, calibrate, evaluate):
        module.add_parser(commands)
    for command in commands.choices.values():
        command.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a wrong flag or request, 1 for what failed on the way, 130 after
    Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING, format="%(levelname)s %(message)s"
    )
    try:
        arguments.run(arguments)
    except OctavoError as error:
        print(f"octavo: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"octavo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
