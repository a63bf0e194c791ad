"""The page of a row."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.row import row_story
from engine.page.facts.row_graph import row_graph
from engine.page.links import from_path
from engine.page.routes.graphs import graph_data
from engine.page.routes.site import page, reading, site_of


def show_row(request: Request) -> Response:
    """A row with its whole way."""
    with reading(request) as reader:
        story = row_story(reader, from_path(request.path_params["target"]), request.path_params["row"])
    graph = graph_data(row_graph(story), site_of(request).frame.links)
    return page(request, "row.html", story=story, graph=graph)


ROUTES = [Route("/rows/{row:int}/{target:path}", show_row)]
