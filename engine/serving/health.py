"""Whether a server is ready, and which models it knows."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import EngineError
from engine.serving.command_line import Listen

_SECONDS = 10.0
_MOST_BYTES = 1 << 20
_SHOWN = 10


def is_ready(listen: Listen, path: str, seconds: float = _SECONDS) -> str:
    """Empty if a GET request is answered with 200 within some seconds; else what happened instead, for the user."""
    try:
        status, _ = ask(listen, path, seconds=seconds)
    except (OSError, http.client.HTTPException) as error:
        return f"{getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
    return "" if status == 200 else f"status {status}"


def known_as(listen: Listen, names: Sequence[str]) -> str:
    """The name by which a server knows the model: the first of `names` that it lists, or the only one that it lists.

    A server that lists no models is asked with the first of the names.

    Raises:
        EngineError: it lists several others.
    """
    listed = listed_models(listen)
    if not listed:
        return names[0]
    for name in names:
        if name in listed:
            return name
    if len(listed) == 1:
        return listed[0]
    shown = ", ".join(map(repr, listed[:_SHOWN])) + (", ..." if len(listed) > _SHOWN else "")
    raise EngineError(f"it does not know the model {names[0]!r}; it has {shown}. Correct `model`, or the server's command")


def listed_models(listen: Listen, headers: Mapping[str, str] | None = None) -> list[str]:
    """The models that a server lists; none if it does not answer as it should."""
    try:
        status, body = ask(listen, "/v1/models", headers=headers)
        return [str(each["id"]) for each in json.loads(body)["data"]] if status == 200 else []
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return []


def ask(
    listen: Listen, path: str, document: Any = None, *, headers: Mapping[str, str] | None = None, seconds: float = _SECONDS
) -> tuple[int, bytes]:
    """Send a GET request, or with a document a POST request. Not through a proxy: the server is on this machine.

    Returns:
        Status and body.

    Raises:
        OSError, http.client.HTTPException: there is no answer.
    """
    connection = http.client.HTTPConnection(listen.host, listen.port, timeout=seconds)
    try:
        if document is None:
            connection.request("GET", path, headers=headers or {})
        else:
            sent = {"Content-Type": "application/json", **(headers or {})}
            connection.request("POST", path, json.dumps(document), sent)
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES)
    finally:
        connection.close()


def free_port(host: str) -> int:
    """A port at which nothing listens."""
    with socket.socket(_family(host)) as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port


def is_free(listen: Listen) -> bool:
    """Whether nothing listens at a port."""
    with socket.socket(_family(listen.host)) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that were closed lately do not count
        try:
            tried.bind(listen)
        except OSError:
            return False
        return True


def url_of(listen: Listen) -> str:
    """The address of a server, up to and including `/v1`."""
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"http://{host}:{listen.port}/v1"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
