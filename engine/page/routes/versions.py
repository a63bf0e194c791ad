"""The pages of a version. Each kind of version has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from engine.page.facts.version import VersionFacts, version_facts
from engine.page.links import from_path
from engine.page.routes.artifact import show_artifact
from engine.page.routes.datasets import show_dataset
from engine.page.routes.site import reading, site_of
from engine.page.sessions import Reader

Shown = Callable[[Request, Reader, VersionFacts], Response]


KINDS: Mapping[str, Shown] = {"dataset": show_dataset}
"""Kind of a version -> what shows it; for kinds that are not here, show_artifact does."""


def show_version(request: Request) -> Response:
    """A version; a name without a number leads to its latest version."""
    target = from_path(request.path_params["target"])
    with reading(request) as reader:
        version = version_facts(reader, target)
        manifest = version.manifest
        if target != version.target:
            query = dict(request.query_params)
            return RedirectResponse(site_of(request).frame.links.version(manifest.name, manifest.version, **query), 302)
        return KINDS.get(manifest.kind, show_artifact)(request, reader, version)


ROUTES = [Route("/versions/{target:path}", show_version)]
