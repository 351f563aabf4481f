"""vLLM's flags: spelled with - or _, and those of its keywords that no knob has."""

import argparse
import json
import logging
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.errors import ConfigError
from octavo.knobs import flag
from octavo.vllm.keywords import LOGGING, PARSERS, Keyword, check_keywords

logger = logging.getLogger(__name__)


class FlexibleArgumentParser(argparse.ArgumentParser):
    """A parser that takes `--max_num_seqs` for `--max-num-seqs`, in its commands too."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        return super().parse_known_args(_hyphenated(sys.argv[1:] if args is None else list(args)), namespace)


def _hyphenated(arguments: list[str]) -> list[str]:
    """Arguments with `_` of a flag's name as `-`; what follows a bare `--` is no flag."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [_hyphenated_name(each) for each in arguments[:end]] + arguments[end:]


def _hyphenated_name(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if argument.startswith("--") else argument


def add_keyword_flags(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup", keywords: Mapping[str, Keyword]
) -> None:
    """A flag for each keyword; it leaves nothing in the namespace where it is not given."""
    for name, keyword in keywords.items():
        kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if keyword.kind is not bool:
            kind = {"type": _json_value if keyword.kind is dict else keyword.kind, "metavar": "VALUE"}
        parser.add_argument(flag(name), default=argparse.SUPPRESS, help=keyword.help or argparse.SUPPRESS, **kind)


def given_keywords(arguments: argparse.Namespace, keywords: Mapping[str, Keyword]) -> dict[str, Any]:
    """The keywords whose flags were given."""
    return {name: value for name, value in vars(arguments).items() if name in keywords}


def server_knobs(arguments: argparse.Namespace, keywords: Mapping[str, Keyword]) -> dict[str, Any]:
    """Fields of `ServerConfig` from flags that only vLLM has. What changes nothing is told in one line.

    Raises:
        ConfigError: one asks for what cannot be had, or they contradict each other.
    """
    given = given_keywords(arguments, keywords)
    wishes = {is_wanted == name.startswith("enable") for name, is_wanted in given.items() if name in LOGGING}
    if len(wishes) > 1:
        raise ConfigError("--enable-log-requests and --disable-log-requests contradict each other: give one of them")
    foreign = {name: value for name, value in given.items() if name not in LOGGING | PARSERS}
    if idle := check_keywords(foreign, keywords, ConfigError, flag):
        logger.warning("%s: of vLLM, changing nothing here", ", ".join(map(flag, idle)))
    parser = {"tool_parser": given["tool_call_parser"]} if "tool_call_parser" in given else {}
    return parser | ({"log_requests": wishes.pop()} if wishes else {})


def random_uuid() -> str:
    """A name that no other request has."""
    return uuid.uuid4().hex


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
