"""A whole value of a row, of which other pages show only the start."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.datasets.pictures import with_pictures
from engine.page.facts.datasets.rows import records_at, value_at
from engine.page.facts.version import version_facts
from engine.page.links import from_path
from engine.page.rendering.values import Style, show
from engine.page.routes.site import page, reading
from engine.plain_values import json_line
from registry.counted import counted

_WHOLE = Style(characters=5_000_000, items=100_000)


def show_value(request: Request) -> Response:
    """A value as a page, or as a file of text."""
    row, path = request.path_params["row"], request.query_params.get("path", "")
    with reading(request) as reader:
        version = version_facts(reader, from_path(request.path_params["target"]))
        manifest = version.manifest
        if row >= manifest.rows:
            raise HTTPException(
                404, f"{manifest.ref} has {counted(manifest.rows, 'row')}, numbered from 0; there is no row {row:,}."
            )
        record = records_at(reader, manifest, [row])[row]
        store = reader.registry.store
    try:
        value = value_at(record, path)
    except KeyError:
        raise HTTPException(404, f"Row {row:,} of {manifest.ref} has no value at {path!r}.") from None
    if request.query_params.get("as") == "file":
        text = value if isinstance(value, str) else json_line(value)
        headers = {"Content-Disposition": 'attachment; filename="value.txt"'}
        return Response(text.encode(errors="replace"), media_type="text/plain; charset=utf-8", headers=headers)
    shown = show(with_pictures(value, store), _WHOLE, path)
    return page(request, "value.html", version=version, row=row, path=path, shown=shown)


ROUTES = [Route("/values/{row:int}/{target:path}", show_value)]
