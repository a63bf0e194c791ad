"""The page as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from engine.errors import EngineError
from engine.page.access import Guard, RefusedError
from engine.page.rendering.pages import render
from engine.page.routes import costs, home, reviews, row, run, sql, static, values, versions
from engine.page.routes.site import Site, page
from registry.errors import CorruptError, InvalidRequestError, LockedError, RegistryError, UnknownRunError, UnknownVersionError

_FILES = (home, run, versions, row, values, costs, reviews, sql, static)


def application(site: Site) -> ASGIApp:
    """The application. Its guard lets only requests with the token pass."""

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return HTMLResponse(render("refused.html", site.frame, reason=str(error)), error.status)

    app = Starlette(
        routes=[route for file in _FILES for route in file.ROUTES],
        exception_handlers={
            HTTPException: _not_there,
            RefusedError: refuse,
            UnknownRunError: _answering(404),
            UnknownVersionError: _answering(404),
            InvalidRequestError: _answering(400),
            LockedError: _answering(503),
            RegistryError: _answering(500),
            EngineError: _answering(400),
            OSError: _answering(500),
            Exception: _bug,
        },
    )
    app.state.site = site
    return Guard(app, site.access, refuse)


def _answering(status: int) -> Callable[[Request, Exception], Response]:
    """A handler that answers an error for users with its text."""

    def answer(request: Request, error: Exception) -> Response:
        advice = "engine fsck --deep" if isinstance(error, CorruptError) else ""
        return page(request, "error.html", status, title=_titles[status], text=str(error), advice=advice)

    return answer


_titles = {
    400: "That did not work",
    404: "Not in the registry",
    500: "The registry cannot be read",
    503: "The registry is busy",
}


def _bug(request: Request, error: Exception) -> Response:
    text = f"{type(error).__name__}: {error}\n(this is a bug in the engine; `engine --debug ui` shows where)"
    return page(request, "error.html", 500, title="This page failed", text=text, advice="")


def _not_there(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "There is no such page" if error.status_code == 404 else HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != HTTPStatus(error.status_code).phrase else f"There is nothing at {request.url.path}."
    return page(request, "error.html", error.status_code, title=title, text=text, advice="")
