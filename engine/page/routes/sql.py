"""Queries that the user writes, as confined as those of `engine sql`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from engine.page.facts.datasets.queries import ROWS, SECONDS, answer, csv_lines
from engine.page.rendering.values import one_line
from engine.page.routes.site import page, reading
from registry.errors import CorruptError, QueryError


def show_sql(request: Request) -> Response:
    """The box, and the result of the query in it."""
    query = request.query_params.get("q", "").strip()
    if query and request.query_params.get("as") == "csv":
        return _csv(request, query)
    problem, found, rows = "", None, []
    if query:
        try:
            with reading(request) as reader:
                found = answer(reader, query)
        except (QueryError, CorruptError) as error:
            problem = str(error)
        else:
            rows = [[(one_line(value, 400), _is_number(value)) for value in row] for row in found.rows]
    return page(
        request,
        "sql.html",
        400 if problem else 200,
        query=query,
        found=found,
        rows=rows,
        problem=problem,
        most=ROWS,
        limit=SECONDS,
    )


def _csv(request: Request, query: str) -> Response:
    pieces = _csv_pieces(request, query)
    first = next(pieces)  # an error at the start is answered with a page
    headers = {"Content-Disposition": 'attachment; filename="result.csv"'}
    return StreamingResponse(chain([first], pieces), media_type="text/csv", headers=headers)


def _csv_pieces(request: Request, query: str) -> Iterator[str]:
    with reading(request) as reader, csv_lines(reader, query) as pieces:
        yield from pieces


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


ROUTES = [Route("/sql", show_sql)]
