"""The parts that every route needs: the registry's sessions, access to the page, and responses with a page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from engine.page.access import Access
from engine.page.background import Background
from engine.page.links import Links
from engine.page.rendering.pages import Frame, render
from engine.page.sessions import Reader, Sessions


@dataclass(frozen=True)
class Site:
    """One page that is being served.

    Args:
        registry: the registry, as the user named it.
    """

    sessions: Sessions
    access: Access
    registry: str
    background: Background = field(default_factory=Background)

    @property
    def frame(self) -> Frame:
        """The frame around every page."""
        return Frame(Links(), self.registry, self.access.form_token)


def site_of(request: Request) -> Site:
    """The site that a request is for."""
    site: Site = request.app.state.site
    return site


@contextmanager
def reading(request: Request) -> Iterator[Reader]:
    """A reader of the registry for this request."""
    with site_of(request).sessions.reader() as reader:
        yield reader


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page as a response."""
    frame = replace(site_of(request).frame, path=request.url.path)
    return HTMLResponse(render(template, frame, **values), status)
