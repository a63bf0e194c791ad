"""The first page."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from engine.page.facts.runs.home import names, pipelines, runs
from engine.page.rendering.pages import render
from engine.page.routes.site import page, reading, site_of
from engine.page.sessions import Reader

_RUNS, _MORE_RUNS = 15, 1000
_NAMES, _MORE_NAMES = 100, 10_000


def show_home(request: Request) -> Response:
    """Active runs, the last runs, the pipelines, and everything that has a name."""
    with reading(request) as reader:
        values = _runs(request, reader) | _names(request, reader)
    return page(request, "home.html", **values)


def show_runs(request: Request) -> Response:
    """The runs and pipelines, as they are now."""
    with reading(request) as reader:
        values = _runs(request, reader)
    return HTMLResponse(render("home_runs.html", site_of(request).frame, **values))


def show_names(request: Request) -> Response:
    """The first names, as they are now."""
    with reading(request) as reader:
        values = _names(request, reader)
    return HTMLResponse(render("home_names.html", site_of(request).frame, **values))


def _runs(request: Request, reader: Reader) -> dict[str, Any]:
    pipeline, every = request.query_params.get("pipeline", ""), request.query_params.get("all") == "runs"
    most = _MORE_RUNS if every else _RUNS
    found = runs(reader, most + 1, pipeline)
    more = {"every": every, "pipeline": pipeline, "pipelines": () if pipeline else pipelines(reader)}
    return {"runs": found[:most], "more_runs": len(found) > most, **more}


def _names(request: Request, reader: Reader) -> dict[str, Any]:
    find, every = request.query_params.get("find", "").strip(), request.query_params.get("all") == "names"
    return {"names": names(reader, _MORE_NAMES if every else _NAMES, find), "find": find, "every_name": every}


ROUTES = [Route("/", show_home), Route("/live/runs", show_runs), Route("/live/names", show_names)]
