"""API keys: which requests may come in, and whose they are."""

import hashlib
import hmac
from collections.abc import Iterator, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.errors import ApiError
from octavo.server.request_context import context_of

OPEN_PATHS = ("/live", "/ready")
"""What a process supervisor asks, without a key."""
METRICS_PATHS = ("/health", "/metrics")
"""What a monitor asks, without a key unless the server is told otherwise."""


class KeyCheck:
    """Refuses requests without one of the keys, where there are keys, and names the tenant of the others.

    Args:
        app: what requests go on to.
        keys: those accepted; none accepts every request.
        protect_metrics: health and metrics need a key as well.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], protect_metrics: bool = False) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]
        self._open_paths = OPEN_PATHS if protect_metrics else OPEN_PATHS + METRICS_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            tenant = self._tenant(scope)
            if tenant is None:
                await _refusal(Headers(scope=scope)).response(scope)(scope, receive, send)
                return
            scope["state"]["tenant"] = context_of(scope).tenant = tenant
        await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str | None:
        """Whose the request is: "" where no key is needed, None where it brings no good one."""
        if not self._digests or scope["path"] in self._open_paths:
            return ""
        given = [_digest(key) for key in _given_keys(Headers(scope=scope))]
        # Every key is compared, in constant time, so that the answer's delay tells nothing about any.
        matches = [known for key in given for known in self._digests if hmac.compare_digest(key, known)]
        return matches[0].hex()[:16] if matches else None


def _given_keys(headers: Headers) -> Iterator[bytes]:
    """The keys that a request brings, in OpenAI's way and in Anthropic's, as the UTF-8 or Latin-1 that they may be."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    for key in (token if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")):
        if key.strip():
            yield key.strip().encode("latin-1")
            yield key.strip().encode()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _refusal(headers: Headers) -> ApiError:
    is_given = "authorization" in headers or "x-api-key" in headers
    cause = "is not one of this server's" if is_given else "is missing"
    return ApiError(
        401,
        f"the API key {cause}: send the header Authorization: Bearer KEY (or x-api-key: KEY) with a key given to "
        "--api-key",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
