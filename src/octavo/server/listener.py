"""The sockets that the server listens on: who may reach it, at which addresses, with how many connections."""

import contextlib
import errno
import ipaddress
import resource
import socket

from octavo.errors import ConfigError
from octavo.server_config import ServerConfig

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""
RESERVED_FILES = 96
"""Open files kept for all that is no accepted connection: sockets to the engine, the log, connections on their way in
and out."""
MAX_CONNECTIONS = 4096
"""Of a server that is not told, where the limit of open files allows it."""


def check_exposure(config: ServerConfig) -> None:
    """Refuse to offer the model to everyone by accident.

    Raises:
        ConfigError: the address is reachable from elsewhere, no key is needed, and `--insecure` was not given.
    """
    if config.api_key or config.insecure or config.host == "localhost":
        return
    try:
        is_local = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise ConfigError(
            f"--host {config.host} can be reached from other machines and no key is needed: "
            "give --api-key KEY, or --insecure if that is what you want"
        )


def open_listeners(config: ServerConfig) -> list[socket.socket]:
    """Bind the port at every address that the host stands for, before anything slow is begun.

    Raises:
        ConfigError: it is taken, or no address is this machine's.
    """
    try:
        found = socket.getaddrinfo(
            config.host or None, config.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _cannot_listen(config, error) from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    families = {family for family, _ in addresses}
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as opened:
        for family, address in addresses:
            # A free port that the first address was given is asked for at the others as well.
            port = listeners[0].getsockname()[1] if listeners else config.port
            try:
                listener = _listen(family, (address[0], port, *address[2:]), is_only_family=len(families) == 1)
            except OSError as error:
                if not _is_missing(error):
                    raise _cannot_listen(config, error) from error
                missing = error
                continue
            listeners.append(opened.enter_context(listener))
        if not listeners:
            raise _cannot_listen(config, missing) from missing
        opened.pop_all()
    return listeners


def connection_limit(asked: int | None) -> int:
    """How many connections the server may hold: `asked`, or as many as the limit of open files leaves. The process's
    own limit is raised as far as the system allows.

    Raises:
        ConfigError: the limit of open files leaves fewer than were asked for.
    """
    wanted = MAX_CONNECTIONS if asked is None else asked
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < wanted + RESERVED_FILES:
        soft = wanted + RESERVED_FILES if hard == resource.RLIM_INFINITY else min(wanted + RESERVED_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else soft - RESERVED_FILES
    if room < (1 if asked is None else asked):
        raise ConfigError(
            f"the limit of open files is {soft} (ulimit -n), of which the server needs {RESERVED_FILES} for itself: "
            f"that leaves {max(room, 0)} connections; raise it, or lower --max-connections"
        )
    return min(wanted, room)


def _listen(family: int, address: tuple[str | int, ...], *, is_only_family: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" takes IPv4 as well, unless IPv4 has a listener of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_only_family)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_missing(error: OSError) -> bool:
    """The machine has no such address: a name's others may do."""
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _cannot_listen(config: ServerConfig, error: OSError | None) -> ConfigError:
    why = error.strerror if error else "the name has no address"
    return ConfigError(f"cannot listen on --host {config.host} --port {config.port}: {why}")
