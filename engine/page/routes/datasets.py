"""The pages of a dataset's version: its rows, charts, schema, card, and changes since another version."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from engine.page.facts.datasets.card import dataset_card
from engine.page.facts.datasets.charts import COLUMNS, columns
from engine.page.facts.datasets.differences import Comparison, compared, comparison, differences, is_compared
from engine.page.facts.datasets.rows import ROW, Wanted, column_names, prepare, rows_page
from engine.page.facts.version import VersionFacts
from engine.page.rendering.datasets import drawn, evenly, row_view
from engine.page.rendering.markdown import markdown
from engine.page.routes.site import page, site_of
from engine.page.sessions import Reader
from registry.errors import QueryError

SIZES = (25, 50, 100, 250)
"""Rows of a page that can be chosen."""

LOOKS = ("table", "text", "markdown")

VIEWS = ("rows", "charts", "diff", "schema", "card")


def show_dataset(request: Request, reader: Reader, version: VersionFacts) -> Response:
    """One of the views of a dataset."""
    view = request.query_params.get("view", "rows")
    return _VIEWS.get(view, _rows)(request, reader, version)


def _rows(request: Request, reader: Reader, version: VersionFacts) -> Response:
    given, manifest = request.query_params, version.manifest
    size = _number(given.get("size"), 50)
    names = column_names(reader, manifest)
    look = given.get("look", "")
    wanted = Wanted(
        where=given.get("where", "").strip(),
        sort=given.get("sort", ""),
        descending=given.get("desc") == "1",
        page=_number(given.get("page"), 1),
        size=size if size in SIZES else 50,
    )
    problem = ""
    try:
        found = rows_page(reader, manifest, wanted)
    except QueryError as error:
        # The form keeps its content, and shows what is wrong.
        problem, found = str(error), None
    prepare(reader, manifest)
    links = site_of(request).frame.links
    look = look if look in LOOKS else "table"
    return page(
        request,
        "dataset_rows.html",
        200 if found else 400,
        version=version,
        view="rows",
        wanted=wanted,
        problem=problem,
        found=found,
        rows=[row_view(row, names, look, links, manifest) for row in found.rows] if found else [],
        names=names,
        number=ROW,
        look=look,
        looks=LOOKS,
        sizes=SIZES,
        here=_address(request, version),
        kept=_fields(request),
    )


def _charts(request: Request, reader: Reader, version: VersionFacts) -> Response:
    found = columns(reader, version.manifest)
    return page(
        request,
        "dataset_charts.html",
        version=version,
        view="charts",
        columns=[(column, drawn(column), evenly(column)) for column in found],
        left=max(0, len(version.manifest.fields) - COLUMNS),
    )


def _schema(request: Request, reader: Reader, version: VersionFacts) -> Response:
    return page(request, "dataset_schema.html", version=version, view="schema", names=column_names(reader, version.manifest))


def _card(request: Request, reader: Reader, version: VersionFacts) -> Response:
    card = dataset_card(reader, version.manifest)
    return page(request, "dataset_card.html", version=version, view="card", card=card, text=markdown(card.text))


def _diff(request: Request, reader: Reader, version: VersionFacts) -> Response:
    given = request.query_params
    other = given.get("with", "")
    key = tuple(part.strip() for part in given.get("key", "").split(",") if part.strip())
    problem, found, awaited = "", None, None
    if other or version.before:
        try:
            wanted = comparison(reader, version, other, key)
            if _is_ready(request, reader, wanted):
                found = differences(reader, wanted, given.get("part", ""), _number(given.get("page"), 1))
            else:
                awaited = wanted
        except QueryError as error:
            problem = str(error)
    response = page(
        request,
        "dataset_diff.html",
        400 if problem else 200,
        version=version,
        view="diff",
        other=other or (str(version.before) if version.before else ""),
        key=", ".join(key),
        found=found,
        awaited=awaited,
        problem=problem,
        kept=_fields(request),
        here=_address(request, version),
    )
    if awaited:
        response.headers["Refresh"] = "1"  # seconds; it needs no script
    return response


def _is_ready(request: Request, reader: Reader, wanted: Comparison) -> bool:
    """Whether versions can be compared at once, or have been. Otherwise starts the comparison. Raises its error, if any."""
    if not wanted.is_large or is_compared(reader, wanted):
        return True
    site = site_of(request)

    def work() -> None:
        with site.sessions.reader() as own:
            compared(own, wanted)

    return site.background.has_done(wanted.identity, work)


_VIEWS: Mapping[str, Callable[[Request, Reader, VersionFacts], Response]] = {
    "rows": _rows,
    "charts": _charts,
    "diff": _diff,
    "schema": _schema,
    "card": _card,
}


def _address(request: Request, version: VersionFacts) -> Callable[..., str]:
    """Makes the address of this page with some of its parameters changed."""
    links, manifest, now = site_of(request).frame.links, version.manifest, dict(request.query_params)

    def here(**changed: str | int | None) -> str:
        return links.version(manifest.name, manifest.version, **(now | changed))

    return here


def _fields(request: Request) -> Callable[..., list[tuple[str, str]]]:
    """Makes the parameters of this page that a form sends along, without the page's number."""

    def kept(*without: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in request.query_params.items() if name not in ("page", *without) and value]

    return kept


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else otherwise
