"""`octavo chat`: a conversation in the terminal with any OpenAI-compatible server, streamed."""

import argparse
import io
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from octavo.errors import ConfigError, OctavoError

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer, /help says this."


class ChatError(OctavoError):
    """The server refused, cannot be reached, or broke off; or the input cannot be read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Of an answer: a text, and what the model thinks before it."""

    text: str
    reasoning: str = ""


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
    """Read lines, print answers, until the input ends. What goes wrong with one line is told to a terminal, and ends
    the conversation where the lines come from a file or a pipe.

    Raises:
        ChatError: the server cannot be reached, or did not answer a line that no terminal gave.
        ConfigError: the URL or the key is not one.
    """
    _check(arguments.url, arguments.api_key)
    if sys.stdin is None:
        raise ChatError("there are no lines to read: standard input is closed")
    server = ChatServer(arguments.url.rstrip("/"), arguments.api_key)
    model = arguments.model or server.first_model()
    options = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    body = {"model": model, **{name: value for name, value in options.items() if value is not None}}
    start = [{"role": "system", "content": arguments.system}] if arguments.system else []
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace" if sys.stdin.isatty() else "strict")
    if sys.stdin.isatty():
        import readline  # noqa: F401 - line editing and history for input()

        print(f"Talking to {model}. {HELP}")
    _converse(server, body, start)


def _check(url: str, api_key: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"--url must be an address such as http://127.0.0.1:8000/v1, got {url!r}")
    if not api_key.isascii() or not api_key.isprintable():
        raise ConfigError("--api-key must be printable ASCII, as a header's value is")


def _converse(server: "ChatServer", body: dict[str, Any], start: list[dict[str, str]]) -> None:
    messages = list(start)
    while (line := _read_line()) not in (None, "/quit"):
        if line == "/reset":
            messages = list(start)
        elif line == "/help":
            print(HELP)
        elif line:
            asked = [*messages, {"role": "user", "content": line}]
            answer = _print_answer(server.stream({**body, "messages": asked}))
            # A line that was refused (too long, say) would have every later one refused.
            if answer:
                messages = [*asked, {"role": "assistant", "content": answer}]


def _read_line() -> str | None:
    """The next line, None at the end of the input; Ctrl-C at the prompt gives an empty one.

    Raises:
        ChatError: the input is not text.
    """
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise ChatError(f"standard input is not {error.encoding.upper()} text: {error}") from error
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print()
        return ""


def _print_answer(pieces: Iterator[Piece]) -> str:
    """Print an answer as it comes; what came before Ctrl-C or an error counts. A terminal shows the reasoning too,
    dimmed, which is no part of the answer."""
    answer = ""
    shows_reasoning = sys.stdout.isatty()
    is_dim = False
    try:
        for piece in pieces:
            if piece.reasoning and shows_reasoning:
                print(piece.reasoning if is_dim else DIM + piece.reasoning, end="", flush=True)
                is_dim = True
            if piece.text:
                print(f"{PLAIN}\n{piece.text}" if is_dim else piece.text, end="", flush=True)
                is_dim = False
                answer += piece.text
    except (KeyboardInterrupt, ChatError) as ending:
        if not sys.stdin.isatty():
            raise
        print(f"[{ending}]" if isinstance(ending, ChatError) else " …", end="")
    print(PLAIN if is_dim else "")
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
        with self._response("/models", None) as response:
            models = json.load(response)
        try:
            return str(models["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise ChatError(f"{self._url} lists no model: name one with --model") from error

    def stream(self, body: dict[str, Any]) -> Iterator[Piece]:
        """The pieces of an answer.

        Raises:
            ChatError: the server refused, or failed on the way.
        """
        ended = False
        with self._response("/chat/completions", {**body, "stream": True}) as response:
            for line in response:
                data = line.decode().strip()
                if not data.startswith("data:"):
                    continue
                data = data.removeprefix("data:").strip()
                if data == "[DONE]":
                    ended = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ChatError(_words_of(event) or "the server failed")
                for choice in event.get("choices", []):
                    delta = choice.get("delta", {})
                    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
                    yield Piece(delta.get("content") or "", reasoning or "")
        if not ended:
            raise ChatError(f"{self._url} broke off before the answer's end")

    @contextmanager
    def _response(self, path: str, body: dict[str, Any] | None) -> Iterator[Any]:
        """The response to a request, while it is read.

        Raises:
            ChatError: no server answers, it refuses, it breaks off, or what it sends is not JSON where it has to be.
        """
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self._url + path, data, self._headers)) as response:
                yield response
        except urllib.error.HTTPError as error:
            raise ChatError(self._refusal(error)) from error
        except urllib.error.URLError as error:
            reason = getattr(error.reason, "strerror", None) or error.reason
            advice = "start one with octavo serve, or name another with --url"
            raise ChatError(f"no server answers at {self._url}: {reason}; {advice}") from error
        except (OSError, HTTPException) as error:
            raise ChatError(f"{self._url} broke off: {str(error).strip() or type(error).__name__}") from error
        except ValueError as error:
            raise ChatError(f"{self._url} does not speak OpenAI's format: {error}") from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """The server's own words where it gave some."""
        try:
            words = _words_of(json.load(error))
        except ValueError:
            words = ""
        refusal = words or f"the server answered {error.code} {error.reason}"
        if error.code == 404 and not self._url.endswith("/v1"):
            return f"{refusal}; with most servers --url ends in /v1, here it is {self._url}"
        return refusal


def _words_of(answer: Any) -> str:
    """The message of an answer that tells of an error, empty where it has none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message") or "") if isinstance(error, dict) else str(error or "")
