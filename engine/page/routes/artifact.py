"""The page of a model, a calibration or a report."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from engine.page.facts.artifacts.model import artifact_facts
from engine.page.facts.version import VersionFacts
from engine.page.rendering.charts import curves
from engine.page.rendering.values import Style, show
from engine.page.routes.site import page, site_of
from engine.page.sessions import Reader


def show_artifact(request: Request, reader: Reader, version: VersionFacts) -> Response:
    """A version's measurements, settings, training data and evaluations."""
    manifest = version.manifest
    artifact = artifact_facts(reader, manifest)
    whole = partial(site_of(request).frame.links.value, manifest.name, manifest.version, 0)

    def shown(value: Any, name: str) -> Markup:
        is_document = manifest.kind == "report" and isinstance(value, str)
        style = Style(characters=20_000, markdown=is_document, pictures=artifact.pictures, whole=whole)
        return show(value, style, quote(name, safe=""))

    charts = [curves(each) for each in artifact.measures.charts]
    return page(request, "artifact.html", version=version, artifact=artifact, charts=charts, shown=shown)
