"""Style sheets and scripts."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.static_files import static_files


def show_file(request: Request) -> Response:
    """A file of the list. Its address has its digest, so browsers may keep it."""
    found = static_files().get(request.path_params["file"])
    if not found:
        raise HTTPException(404)
    keep = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(found.content, media_type=found.media_type, headers=keep)


ROUTES = [Route("/static/{file:path}", show_file)]
