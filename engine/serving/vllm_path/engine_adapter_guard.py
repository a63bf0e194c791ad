"""Runs inside vLLM: lets only the engine that started the server change it.

A vLLM that loads adapters while it runs loads them for anyone who can reach its port, also in place of others. This middleware
allows reading requests and chat completions. Everything else needs a token, which the engine makes for each server.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

TOKEN, HEADER = "ENGINE_ADAPTER_TOKEN", "x-engine-adapter-token"
"""The environment variable with the token, and the header of a request."""

_READS = {"GET", "HEAD", "OPTIONS"}
_ASKS = {"/v1/chat/completions"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class OnlyTheEngine:
    """ASGI middleware; see the module.

    Args:
        app: the application that it protects.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._token = os.environ[TOKEN].encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request with 403, or let it pass."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._may_pass(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            body = b'{"error": {"message": "only the engine that started this server may ask this of it", "code": 403}}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may_pass(self, scope: Message) -> bool:
        if scope["method"] in _READS or (scope["method"] == "POST" and scope["path"] in _ASKS):
            return True
        given = [value for name, value in scope["headers"] if name.lower() == HEADER.encode()]
        return len(given) == 1 and hmac.compare_digest(given[0], self._token)
