"""Serves the page until the user stops it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

import uvicorn

from engine.errors import EngineError
from engine.page.access import Access
from engine.page.routes.site import Site
from engine.page.server import application
from engine.page.sessions import Sessions
from registry.query.limits import limit_memory

_LONGEST_ADDRESS = 1 << 18
"""Bytes of a request's head: a query of SQL is part of an address."""


def serve(location: str, registry: str, host: str, port: int, ready: Callable[[str], None], *, debug: bool = False) -> None:
    """Serve the page until interrupted.

    Args:
        location: of the registry, as for Registry.
        registry: the same, as the user named it.
        host, port: where to listen; port 0: any that is free.
        ready: called with the address to open, as soon as it can be opened.
        debug: log tracebacks.

    Raises:
        EngineError: the address cannot be used.
    """
    # As for `engine sql`: DuckDB's own limit does not cover the values that one function call creates.
    limit_memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    with listening(host, port) as door:
        access = Access(host, door.getsockname()[1])
        server = server_of(Site(Sessions(location), access, registry), debug=debug)
        import_module("registry.query.verified_scan")  # it brings pandas; the first page with a condition would wait for it
        ready(access.address)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
            server.run(sockets=[door])


def server_of(site: Site, *, debug: bool = False) -> uvicorn.Server:
    """The server of a site; it runs on sockets that are listening."""
    config = uvicorn.Config(
        application(site),
        log_level="error" if debug else "critical",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        http="h11",
        h11_max_incomplete_event_size=_LONGEST_ADDRESS,
        timeout_graceful_shutdown=1,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; raises EngineError, with advice."""
    try:
        [(family, kind, protocol, _, place), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, OverflowError) as error:
        raise EngineError(f"--host {host}: this is not an address of this machine ({error})") from error
    door = socket.socket(family, kind, protocol)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(place)
        door.listen(128)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            advice = "Choose another one, or any that is free: --port 0"
            raise EngineError(f"--port {port}: another program listens on this port of {host}. {advice}") from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise EngineError(f"the page cannot listen on {host}, port {port}: {reason}") from error
    return door
