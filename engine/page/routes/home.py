"""The first page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.home import home
from engine.page.routes.site import page, reading


def show_home(request: Request) -> Response:
    """The last runs, and everything that has a name."""
    with reading(request) as reader:
        found = home(reader)
    return page(request, "home.html", home=found)


ROUTES = [Route("/", show_home)]
