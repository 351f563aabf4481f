"""Every knob of the HTTP server, declared once, as `config` has the engine's."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from octavo.answers.built_in import NAMES
from octavo.errors import ConfigError
from octavo.knobs import Size, check_knobs, knob


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything that shapes the HTTP server in front of an engine.

    Raises:
        ConfigError: a value is out of its range, or two do not go together; the message names the flags.
    """

    host: str = knob("127.0.0.1", "address to listen on", group="server", metavar="ADDRESS")
    port: int = knob(8000, "port to listen on; 0 takes a free one", group="server", metavar="PORT", within=range(65536))
    api_key: tuple[str, ...] = knob(
        (),
        "a key that requests must bring, as bearer token or as x-api-key; may be given several times",
        group="server",
        metavar="KEY",
    )
    protect_metrics: bool = knob(False, "ask for the key at /health and /metrics too", group="server")
    allowed_origin: tuple[str, ...] = knob(
        (),
        "origin of web pages that may ask this server, http://localhost:3000 say, or * for all; may be given several "
        "times; none by default",
        group="server",
        metavar="ORIGIN",
        items="origins",
    )
    insecure: bool = knob(False, "listen on a public address without a key", group="server")
    served_model_name: tuple[str, ...] = knob(
        (),
        "names that requests may call the model by, one or several, the first of them told in answers and metrics; "
        "the value of --model by default",
        group="server",
        metavar="NAME",
        several=True,
    )
    allow_request_templates: bool = knob(
        False, "take a chat_template from requests: code of a stranger's, though bounded and shut in", group="server"
    )
    tool_parser: str = knob(
        "auto",
        "how the model writes calls of tools and marks its reasoning: auto takes what its files declare "
        "(response_template), or what its chat template shows; for a model whose template says nothing, or something "
        f"else than the model writes, one of {', '.join(NAMES)}",
        group="server",
        metavar="NAME",
    )
    max_queued_requests: int = knob(
        1024,
        "requests in the server at once; further ones get status 429",
        group="server limits",
        metavar="N",
        at_least=1,
    )
    max_queue_time: float | None = knob(
        None,
        "seconds that a request may wait before it begins: one that is expected to wait longer, at the pace of late, "
        "gets status 429 and is told when to come again, and so does one that has; no bound by default",
        group="server limits",
        metavar="SECONDS",
        at_least=0,
    )
    max_n: int = knob(64, "cap on a request's n", group="server limits", metavar="N", at_least=1)
    max_body_bytes: Size = knob("8MiB", "cap on a request's body", group="server limits", metavar="SIZE")
    max_tokenize_bytes: Size = knob(
        "1MiB",
        "cap on the UTF-8 bytes of a text for /tokenize, or that truncate_prompt_tokens cuts",
        group="server limits",
        metavar="SIZE",
    )
    max_total_body_bytes: Size = knob(
        "256MiB",
        "cap on the bodies of all requests in the server together; further ones get status 429",
        group="server limits",
        metavar="SIZE",
    )
    max_connections: int | None = knob(
        None,
        "connections at once; further ones take the place of idle ones; by default 4096, or what the limit of open "
        "files (ulimit -n) leaves",
        group="server limits",
        metavar="N",
        at_least=1,
    )
    keep_alive_timeout: float = knob(
        75.0,
        "seconds that a connection may be idle between two requests",
        group="server limits",
        metavar="SECONDS",
        at_least=1,
    )
    receive_timeout: float = knob(
        60.0,
        "seconds that a request's head, and then its body, may take to arrive",
        group="server limits",
        metavar="SECONDS",
        at_least=1,
    )
    send_timeout: float = knob(
        60.0,
        "seconds that a client may leave unread what is sent to it",
        group="server limits",
        metavar="SECONDS",
        at_least=1,
    )
    max_stop_strings: int = knob(
        16,
        "cap on a request's stop texts, its stop_regex, and its bad_words",
        group="server limits",
        metavar="N",
        at_least=0,
    )
    max_logit_bias: int = knob(
        1024, "cap on a request's logit_bias entries", group="server limits", metavar="N", at_least=0
    )
    max_token_ids: int = knob(
        4096,
        "cap on the entries of a request's lists of token ids: stop_token_ids, allowed_token_ids and others",
        group="server limits",
        metavar="N",
        at_least=0,
    )
    max_grammar_bytes: Size = knob(
        "256KiB",
        "cap on the UTF-8 bytes of a schema, regex, list of choices or grammar that an answer is to conform to",
        group="server limits",
        metavar="SIZE",
    )
    max_grammar_depth: int = knob(
        64, "cap on how deep a schema, regex or grammar is nested", group="server limits", metavar="N", at_least=1
    )
    max_grammar_repeats: int = knob(
        10_000,
        "cap on what {m,n} adds to a grammar's regexes: their parts, each as often as it is repeated",
        group="server limits",
        metavar="N",
        at_least=1,
    )
    max_grammar_time: float = knob(
        0.5,
        "seconds of processor time to compile a schema, regex or grammar",
        group="server limits",
        metavar="SECONDS",
        at_least=0,
    )
    max_prompts: int | None = knob(
        None,
        "cap on the prompts of one completion request; that of --max-queued-requests by default",
        group="server limits",
        metavar="N",
        at_least=1,
    )
    drain_timeout: float = knob(
        30.0,
        "seconds that running requests may take to finish after SIGTERM or SIGHUP",
        group="server",
        metavar="SECONDS",
        at_least=0,
    )
    step_timeout: float = knob(
        120.0,
        "seconds without a step while requests wait, after which /health fails",
        group="server",
        metavar="SECONDS",
        at_least=0,
    )
    ready_timeout: float = knob(
        10.0,
        "seconds without a step while requests wait, after which /ready fails, so that others get the requests",
        group="server",
        metavar="SECONDS",
        at_least=0,
    )
    log_requests: bool = knob(
        True,
        "log each request in one line of JSON when it is over, refused ones too: what it asked for, how it ended, its "
        "tokens and times, none of its words; on by default",
        group="server",
    )
    log_prompts: bool = knob(
        False, "put prompts and answers into these lines, the first 8,192 characters of each", group="server"
    )

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.tool_parser not in ("auto", *NAMES):
            raise ConfigError(f"--tool-parser is {self.tool_parser!r}; it is auto or one of {', '.join(NAMES)}")
        for key in self.api_key:
            if key != key.strip() or not key.isprintable():
                raise ConfigError(
                    "--api-key holds blanks around the key, or characters that no header can hold: no request could "
                    "match it; give the key alone"
                )
        for origin in self.allowed_origin:
            _check_origin(origin)


def _check_origin(origin: str) -> None:
    """Hold an origin to the form in which browsers send it: others would match no page.

    Raises:
        ConfigError: it has another.
    """
    if origin in ("*", "null"):
        return
    try:
        parts = urlsplit(origin.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not parts.scheme or set("*, ") & set(host):
        raise ConfigError(f"--allowed-origin is {origin!r}: write scheme and host, http://localhost:3000 say, or *")
    shown_port = "" if port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else f":{port}"
    as_sent = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{shown_port}"
    if origin != as_sent:
        raise ConfigError(f"--allowed-origin is {origin!r}, and browsers send no such origin: write {as_sent}")
