"""The page of a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.datasets.pictures import with_pictures
from engine.page.facts.story.row import row_story
from engine.page.facts.story.row_graph import row_graph
from engine.page.links import from_path
from engine.page.rendering.values import Style, show
from engine.page.routes.graphs import graph_data
from engine.page.routes.site import page, reading, site_of
from registry.lineage.targets import Version

_CHARACTERS = 6000
"""Characters of a text that are shown at once."""


def show_row(request: Request) -> Response:
    """A row with its whole story."""
    with reading(request) as reader:
        story = row_story(reader, from_path(request.path_params["target"]), request.path_params["row"])
        store = reader.registry.store
    links = site_of(request).frame.links
    graph = graph_data(row_graph(story), links)

    def whole(version: Version, row: int) -> Callable[[str], str]:
        return partial(links.value, version.name, version.number, row)

    def shown(value: Any, name: str = "", whole: Callable[[str], str] | None = None) -> Markup:
        return show(with_pictures(value, store), Style(characters=_CHARACTERS, whole=whole), quote(name, safe=""))

    return page(request, "row.html", story=story, graph=graph, shown=shown, whole=whole)


ROUTES = [Route("/rows/{row:int}/{target:path}", show_row)]
