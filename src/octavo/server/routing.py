"""Which requests have an endpoint: known before anything of their body is read."""

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.request_context import context_of


class Routing:
    """Marks the requests that go to an endpoint that takes a body; the router answers the others at once. HEAD is GET
    without the answer's body, which the connection leaves out.

    Args:
        app: what requests go on to.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
            elif scope["method"] == "POST":
                routes = scope["app"].routes
                context_of(scope).is_work = any(route.matches(scope)[0] is Match.FULL for route in routes)
        await self._app(scope, receive, send)
