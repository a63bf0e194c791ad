"""Who may use the page: holders of the token in the address that `engine ui` prints, from the page itself.

A browser tells every website's scripts apart by host, so three doors are shut: a site that gives its own name this machine's
address (the name of the host is checked), a site that sends forms here (the origin is checked, and each form carries a token),
and any other program or user of this machine (the cookie).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.datastructures import FormData
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  (recognised, not bound)

PLOT_STYLE = "'sha256-+TfQir1nvDucAdvE6XUQBt4ayUjpAWkbw2kCdSfekHM='"
"""The one style element that a script adds: Observable Plot's, to each chart of class `plot`."""

_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {PLOT_STYLE}; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer, with which browsers call the origin of forms null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """A request that is refused, with the status and what to do."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Access:
    """What a request needs.

    Args:
        host, port: where the page is served.
        token: the secret in the address.
    """

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    @property
    def address(self) -> str:
        """The address to open."""
        name = "127.0.0.1" if self.host in EVERYWHERE else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/?{urlencode({'token': self.token})}"

    @property
    def cookie(self) -> str:
        """The cookie's name. Cookies do not know ports, so two pages on one machine need two names."""
        return f"engine_page_{self.port}"

    @property
    def form_token(self) -> str:
        """What each form carries: another site cannot know it, even if a browser sent the cookie along."""
        return hmac.new(self.token.encode(), b"form", hashlib.sha256).hexdigest()

    def serves(self, host: str) -> bool:
        """Whether a Host header names this page. Ports differ where a tunnel leads here, so they do not count."""
        name = _name(host)
        if name in LOOPBACK or name == self.host.lower():
            return True
        return self.host in EVERYWHERE and (_is_address(name) or name == socket.gethostname().lower())

    def check_origin(self, request: Request) -> None:
        """Raise RefusedError unless a request that may change something comes from the page itself."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        own = f"{request.url.scheme}://{request.headers.get('host', '')}"
        if (origin or site) and origin in (None, own) and site in (None, "same-origin"):
            return
        raise RefusedError(403, "This request did not come from the page itself, so it was refused.")

    def check_form(self, form: FormData) -> None:
        """Raise RefusedError unless a form was made by this page."""
        given = form.get("form_token")
        if not isinstance(given, str) or not _same(given, self.form_token):
            raise RefusedError(
                403, "This form is from an earlier start of the page. Go back, reload the page, and send it again."
            )


class Guard:
    """An ASGI application in front of the page that lets only permitted requests through, and sets security headers.

    Args:
        refuse: makes the response to a refused request.
    """

    def __init__(self, app: ASGIApp, access: Access, refuse: Callable[[Request, RefusedError], Response]) -> None:
        self._app = app
        self._access = access
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        try:
            answer: Callable[[Scope, Receive, Send], Awaitable[None]] = self._admitted(request) or self._app
        except RefusedError as refused:
            answer = self._refuse(request, refused)
        await answer(scope, receive, _with_headers(send))

    def _admitted(self, request: Request) -> Response | None:
        """A response if the request is answered here; None if it may pass. Raises RefusedError."""
        access = self._access
        if not access.serves(request.headers.get("host", "")):
            raise RefusedError(421, "The page is not served under this name. Open the address that `engine ui` printed.")
        reads = request.method in ("GET", "HEAD")
        if reads and (given := request.query_params.getlist("token")):
            if not _same(given[-1], access.token):
                raise RefusedError(403, "The token in this address is wrong, or from an earlier start of the page.")
            return self._welcome(request)
        if not _same(request.cookies.get(access.cookie, ""), access.token):
            raise RefusedError(403, "This browser has not opened the page with its token yet.")
        if not reads:
            access.check_origin(request)
        return None

    def _welcome(self, request: Request) -> Response:
        """Set the cookie, and redirect to the address without the token, so that it is not shown or copied."""
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        path = "/" + request.scope["raw_path"].decode("ascii").lstrip("/")  # `//host` would lead elsewhere
        response = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        response.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="strict")
        return response


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


def _name(host: str) -> str:
    """The name or address in a Host header."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
