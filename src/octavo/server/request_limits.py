"""The server's own limits, on how many requests are in it and on what one asks for: before anything is tokenized."""

from collections.abc import Sized

from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.config import ServerConfig
from octavo.knobs import flag
from octavo.server.errors import ApiError
from octavo.server.request_context import context_of


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
            await error.response()(scope, receive, send)
            return
        self._open_requests.count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open_requests.count -= 1


def check_caps(
    config: ServerConfig,
    *,
    n: int,
    best_of: int | None,
    stop: object,
    logit_bias: Sized | None,
    num_prompts: int = 1,
) -> None:
    """Refuse a request that asks for more than the server's caps.

    Raises:
        ApiError: it does; the message names the flag.
    """
    num_stops = len(stop) if isinstance(stop, list) else 0 if stop is None else 1
    for field, count, name in (
        ("n", n, "max_n"),
        ("best_of", best_of or 1, "max_n"),
        ("prompt", num_prompts, "max_prompts"),
        ("stop", num_stops, "max_stop_strings"),
        ("logit_bias", len(logit_bias or ()), "max_logit_bias"),
    ):
        cap = getattr(config, name)
        if count > cap:
            what = f"{field} is {count}" if name == "max_n" else f"{field} has {count} entries"
            raise ApiError(400, f"{what}, over this server's cap of {cap}: raise {flag(name)}", param=field)
