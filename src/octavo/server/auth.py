"""API keys: which requests may come in, and whose they are."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import ApiError
from octavo.server.request_context import context_of

OPEN_PATHS = ("/live", "/ready")
"""What a process supervisor asks, without a key."""


class KeyCheck:
    """Refuses requests without one of the keys, where there are keys, and names the tenant of the others.

    Args:
        app: what requests go on to.
        keys: those accepted; none accepts every request.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            tenant = self._tenant(scope)
            if tenant is None:
                await _refusal(Headers(scope=scope)).response()(scope, receive, send)
                return
            scope["state"]["tenant"] = context_of(scope).tenant = tenant
        await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str | None:
        """Whose the request is: "" where no key is needed, None where it brings no good one."""
        if not self._digests or scope["path"] in OPEN_PATHS:
            return ""
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # Every key is compared, in constant time, so that the answer's delay tells nothing about any.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:16] if any(matches) and scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _refusal(headers: Headers) -> ApiError:
    cause = "is not one of this server's" if "authorization" in headers else "is missing"
    return ApiError(
        401,
        f"the API key {cause}: send the header Authorization: Bearer KEY with a key given to --api-key",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
