"""`octavo serve`: the OpenAI-compatible server."""

import argparse
import logging

from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig, ServerConfig
from octavo.server.signals import end_at_once_on_signals


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP, in OpenAI's format",
        description="Serve a model over HTTP, in OpenAI's format. SIGTERM (or INT, HUP) drains: what runs may finish, "
        "new work is refused; a second one stops at once.",
        epilog="example: octavo serve --model smollm2 --port 8000 --kv-cache-memory 4GiB",
    )
    add_config_flags(parser, ServerConfig)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serve; the process ends with the server.

    Raises:
        OctavoError: the server could not start.
    """
    end_at_once_on_signals()
    config, engine = read_config_flags(arguments, ServerConfig), read_config_flags(arguments, EngineConfig)
    logging.getLogger("octavo.server").setLevel(logging.INFO)
    from octavo.server.lifecycle import serve

    serve(engine, config)
