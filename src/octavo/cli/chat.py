"""`octavo chat`: a conversation in the terminal with any OpenAI-compatible server, streamed."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from octavo.errors import ConfigError, OctavoError

HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer."


class ChatError(OctavoError):
    """The server refused, or cannot be reached."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "chat",
        help="talk to a server in the terminal",
        description=f"Talk to any OpenAI-compatible server in the terminal. {HELP}",
        epilog="example: octavo serve & octavo chat --system 'Answer in one sentence.'",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server (default: %(default)s)")
    parser.add_argument("--model", metavar="NAME", help="the server's first model by default")
    parser.add_argument("--api-key", default="EMPTY", metavar="KEY", help="the server's key, where it needs one")
    parser.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    parser.add_argument("--temperature", type=float, metavar="X", help="0 is greedy; the server's default otherwise")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer at most")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read lines, print answers, until the input ends.

    Raises:
        ChatError: the server cannot be reached.
        ConfigError: the URL is not one.
    """
    if not arguments.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url must begin with http:// or https://, got {arguments.url!r}")
    server = ChatServer(arguments.url.rstrip("/"), arguments.api_key)
    model = arguments.model or server.first_model()
    options = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    body = {"model": model, **{name: value for name, value in options.items() if value is not None}}
    start = [{"role": "system", "content": arguments.system}] if arguments.system else []
    if sys.stdin.isatty():
        import readline  # noqa: F401 - line editing and history for input()

        print(f"Talking to {model}. {HELP}")
    _converse(server, body, start)


def _converse(server: "ChatServer", body: dict[str, Any], start: list[dict[str, str]]) -> None:
    messages = list(start)
    while (line := _read_line()) not in (None, "/quit"):
        if line == "/reset":
            messages = list(start)
        elif line:
            messages.append({"role": "user", "content": line})
            answer = _print_answer(server.stream({**body, "messages": messages}))
            messages.append({"role": "assistant", "content": answer})


def _read_line() -> str | None:
    """The next line, None at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _print_answer(pieces: Iterator[str]) -> str:
    """Print an answer as it comes; what came before Ctrl-C or an error counts."""
    answer = ""
    try:
        for piece in pieces:
            answer += piece
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    except ChatError as error:
        print(f"[{error}]", end="")
    print()
    return answer


class ChatServer:
    """An OpenAI-compatible server, by its base URL."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}

    def first_model(self) -> str:
        """The name of the first model that the server lists.

        Raises:
            ChatError: there is none, or no server.
        """
        with self._open("/models", None) as response:
            models = json.load(response).get("data", [])
        if not models:
            raise ChatError(f"{self._url} lists no model: name one with --model")
        return str(models[0]["id"])

    def stream(self, body: dict[str, Any]) -> Iterator[str]:
        """The pieces of an answer's text.

        Raises:
            ChatError: the server refused, or failed on the way.
        """
        with self._open("/chat/completions", {**body, "stream": True}) as response:
            for line in response:
                data = line.decode().removeprefix("data:").strip()
                if not data or data == "[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ChatError(event["error"].get("message", "the server failed"))
                for choice in event.get("choices", []):
                    yield choice.get("delta", {}).get("content") or ""

    def _open(self, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            return urllib.request.urlopen(urllib.request.Request(self._url + path, data, self._headers))
        except urllib.error.HTTPError as error:
            raise ChatError(_message_of(error)) from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ChatError(f"no server answers at {self._url}: {reason}; start one with octavo serve") from error


def _message_of(error: urllib.error.HTTPError) -> str:
    """The server's own words where it gave some."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
