"""`octavo serve`: the OpenAI-compatible server."""

import argparse
import logging

from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.server.signals import end_at_once_on_signals
from octavo.server_config import ServerConfig


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP, in OpenAI's and Anthropic's formats",
        description="Serve a model over HTTP, in OpenAI's and Anthropic's formats: chats and completions of a language "
        "model, and embeddings, scores and ranked documents of whatever model gives them (/openapi.json lists all). "
        "SIGTERM (or INT, HUP) drains: what runs may finish, new work is refused; a second one stops at once.",
        epilog="example: octavo serve smollm2 --port 8000 --kv-cache-memory 4GiB",
    )
    parser.add_argument("positional_model", nargs="?", metavar="MODEL", help="the same as --model MODEL")
    add_config_flags(parser, ServerConfig)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run, model=None)


def run(arguments: argparse.Namespace) -> None:
    """Serve; the process ends with the server.

    Raises:
        OctavoError: the server could not start.
    """
    end_at_once_on_signals()
    arguments.model = _model(arguments)
    config, engine = read_config_flags(arguments, ServerConfig), read_config_flags(arguments, EngineConfig)
    for name in ("octavo.server", "octavo.requests"):
        logging.getLogger(name).setLevel(logging.INFO)
    from octavo.server.lifecycle import serve

    serve(engine, config)


def _model(arguments: argparse.Namespace) -> str:
    """The model that is asked for, by its place or by the flag.

    Raises:
        ConfigError: by both, differently; or several names are given, of which the last may have been meant as MODEL.
    """
    named = {model for model in (arguments.positional_model, arguments.model) if model is not None}
    if len(named) > 1:
        raise ConfigError(f"MODEL is {arguments.positional_model} and --model is {arguments.model}: give one of them")
    if not named and len(arguments.served_model_name or ()) > 1:
        raise ConfigError(
            f"--served-model-name takes all of {', '.join(arguments.served_model_name)}, and no model is named: put "
            "MODEL before the flags"
        )
    return named.pop() if named else EngineConfig().model
