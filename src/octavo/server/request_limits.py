"""The server's own limits, on how many requests are in it and on what one asks for: before anything is tokenized."""

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.knobs import flag
from octavo.scheduling.admission import Limits, check_prompt_length
from octavo.server.errors import ApiError
from octavo.server.request_context import context_of
from octavo.server_config import ServerConfig


class OpenRequests:
    """Counts the requests in the server.

    Args:
        max_open: how many there may be.
    """

    def __init__(self, max_open: int) -> None:
        self._max_open = max_open
        self.count = 0

    def check(self, is_draining: bool) -> None:
        """Refuse one more request.

        Raises:
            ApiError: there is no room for it, or the server is ending.
        """
        if is_draining:
            raise ApiError(503, "the server is shutting down and takes no new requests", code="draining")
        if self.count >= self._max_open:
            raise ApiError(
                429,
                f"the server holds {self.count} requests already: try again later, or raise --max-queued-requests",
                code="queue_full",
            )


class OpenRequestLimit:
    """Lets requests that generate in while there is room.

    Args:
        app: what requests go on to. Its state says whether the server `is_draining`.
        open_requests: the count.
    """

    def __init__(self, app: ASGIApp, open_requests: OpenRequests) -> None:
        self._app = app
        self._open_requests = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not context_of(scope).is_work:
            await self._app(scope, receive, send)
            return
        try:
            self._open_requests.check(scope["app"].state.is_draining)
        except ApiError as error:
            await error.response(scope)(scope, receive, send)
            return
        self._open_requests.count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open_requests.count -= 1


def check_sizes(content: Mapping[str, Any], config: ServerConfig, limits: Limits) -> None:
    """Refuse a body that holds more than the server's caps, by counts alone: nothing of it has been checked yet.

    Raises:
        ApiError: it does; the message names the flag.
        ContextLengthError: a prompt of token ids is longer than the model's context.
    """
    prompts = _prompts(content.get("prompt"))
    is_cut = isinstance(content.get("truncate_prompt_tokens"), int | float)
    for prompt in prompts:
        if isinstance(prompt, list) and not is_cut:
            check_prompt_length(len(prompt), limits)
    caps = {
        "prompt": (len(prompts), "max_prompts" if config.max_prompts is not None else "max_queued_requests"),
        **{field: (_count(content.get(field)), cap) for field, cap in _CAPPED.items()},
    }
    for field, (count, cap) in caps.items():
        most = getattr(config, cap)
        if count > most:
            raise ApiError(
                400, f"{field} has {count} entries, over this server's cap of {most}: raise {flag(cap)}", param=field
            )


def check_num_answers(config: ServerConfig, **counts: int) -> None:
    """Refuse a request for more sequences than the server's cap.

    Raises:
        ApiError: one of the fields `counts` asks for more; the message names the flag.
    """
    for field, count in counts.items():
        if count > config.max_n:
            raise ApiError(
                400, f"{field} is {count}, over this server's cap of {config.max_n}: raise {flag('max_n')}", param=field
            )


_CAPPED = {
    "stop": "max_stop_strings",
    "stop_regex": "max_stop_strings",
    "bad_words_ids": "max_token_ids",
    "bad_words": "max_stop_strings",
    "logit_bias": "max_logit_bias",
    "stop_token_ids": "max_token_ids",
    "allowed_token_ids": "max_token_ids",
    "logprob_token_ids": "max_token_ids",
}
"""Fields with as many entries as a client likes, and the knobs that bound them."""


def _prompts(prompt: object) -> list[object]:
    """What a completion's prompt is, one by one: a flat list of token ids is one."""
    if not isinstance(prompt, list) or (prompt and isinstance(prompt[0], int | float)):
        return [prompt]
    return prompt


def _count(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0
