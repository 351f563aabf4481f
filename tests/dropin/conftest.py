"""The server of tests/server, for the tests of what a drop-in must do."""

from server.conftest import background, client, serve, server

__all__ = ["background", "client", "serve", "server"]
