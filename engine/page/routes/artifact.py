"""The page of a model, a calibration or a report."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.model import artifact_facts
from engine.page.links import from_path
from engine.page.rendering.charts import curves
from engine.page.routes.site import page, reading
from engine.page.sessions import Reader


def show_version(request: Request) -> Response:
    """A version by its kind."""
    with reading(request) as reader:
        return artifact_page(request, reader, from_path(request.path_params["target"]))


def artifact_page(request: Request, reader: Reader, target: str) -> Response:
    """What was measured of a version, what it was made from, and what it is used for."""
    artifact = artifact_facts(reader, target)
    return page(request, "artifact.html", artifact=artifact, charts=[curves(each) for each in artifact.measures.charts])


ROUTES = [Route("/versions/{target:path}", show_version)]
