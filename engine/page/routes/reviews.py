"""The pages of reviews. They are the only ones that change something: each decision is on disk before the next row is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from engine.errors import wrong_value
from engine.page.facts.reviews import Given, NotAskedError, decide, review_lines, review_page, undo
from engine.page.links import from_path
from engine.page.rendering.markdown import markdown
from engine.page.rendering.values import Style, show
from engine.page.routes.site import page, reading, site_of
from engine.page.sessions import Reader
from engine.reviewing.incoming import VERDICTS
from registry import RegistryError
from registry.reviews.decisions import LONGEST_NAME

LOOKS = ("text", "markdown")

_YEAR = 365 * 24 * 3600
_FIELD = "field."


class _Asked(NamedTuple):
    """The parameters of a request: the review, the reviewer, and options."""

    name: str
    reviewer: str
    row: str = ""
    last: str = ""
    look: str = "text"
    more: bool = False

    @property
    def query(self) -> dict[str, str | int | None]:
        """The parameters in an address, without those that have their defaults."""
        look = self.look if self.look != LOOKS[0] else None
        return {"row": self.row or None, "last": self.last or None, "look": look, "more": 1 if self.more else None}


def show_reviews(request: Request) -> Response:
    """All reviews."""
    with reading(request) as reader:
        found = review_lines(reader)
    return page(request, "reviews.html", reviews=found)


def show_review(request: Request) -> Response:
    """A review, with the row that is next."""
    with reading(request) as reader:
        return _shown(request, reader, _asked(request, request.query_params))


async def answer_review(request: Request) -> Response:
    """Take a decision, or a reviewer's name."""
    # Larger than any row that can be edited on a page.
    async with request.form(max_files=0, max_fields=10_000, max_part_size=16 << 20) as form:
        site_of(request).access.check_form(form)
        return await run_in_threadpool(_answered, request, form)


def _answered(request: Request, form: FormData) -> Response:
    given = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    asked, action = _asked(request, given), given.get("action", "")
    if action == "name":
        return _named(request, asked, given.get("reviewer", ""))
    with reading(request) as reader:
        if not asked.reviewer:
            return _shown(request, reader, asked, "Enter your name first.", 400)
        try:
            if action == "undo":
                undo(reader, asked.name, asked.reviewer, asked.row)
                return _go_on(request, asked)
            if action not in VERDICTS:
                return _shown(request, reader, asked, "This is not a verdict.", 400)
            decide(reader, asked.name, asked.reviewer, asked.row, action, _given(form))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, each['loc']))}: {wrong_value(each)}" for each in error.errors(include_url=False)]
            return _shown(request, reader, asked, f"{'; '.join(problems)}. Nothing was stored.", 422, _given(form))
        except NotAskedError as error:
            return _shown(request, reader, asked, str(error), 422, _given(form))
        except (RegistryError, OSError) as error:
            return _shown(request, reader, asked, f"The decision was not stored: {error}", 500, _given(form))
    return _go_on(request, asked._replace(row="", last=asked.row))


def _named(request: Request, asked: _Asked, name: str) -> Response:
    """Remember who reviews."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        with reading(request) as reader:
            problem = f"Give a name of 1 to {LONGEST_NAME} printable characters."
            return _shown(request, reader, asked._replace(reviewer=""), problem, 422)
    response = _go_on(request, asked._replace(row=""))
    response.set_cookie(_cookie(request), quote(name), max_age=_YEAR, httponly=True, samesite="strict")
    return response


def _shown(
    request: Request, reader: Reader, asked: _Asked, problem: str = "", status: int = 200, given: Given | None = None
) -> Response:
    found = review_page(reader, asked.name, asked.reviewer, asked.row, more=asked.more)
    turn = found.turn
    if turn and given and turn.row_id == asked.row:
        # The form keeps its content, so that only the mistake has to be corrected.
        fields = tuple(replace(each, text=given.texts.get(each.name, each.text)) for each in turn.fields)
        turn = replace(turn, fields=fields)
    style = Style(characters=100_000, items=1000, markdown=asked.look == "markdown")
    return page(
        request,
        "review.html",
        status,
        asked=asked,
        looks=LOOKS,
        line=found.line,
        task=found.line.queue.task,
        instructions=markdown(found.line.queue.task.instructions),
        turn=turn,
        shown=[(name, show(value, style, name)) for name, value in turn.values.items()] if turn else [],
        left=found.left,
        own=found.own,
        recent=found.recent,
        problem=problem,
        given=given or Given(labels=turn.mine.labels if turn and turn.mine else ()),
    )


def _go_on(request: Request, asked: _Asked) -> Response:
    return RedirectResponse(site_of(request).frame.links.review(asked.name, **asked.query), 303)


def _asked(request: Request, given: Mapping[str, Any]) -> _Asked:
    look = given.get("look", "")
    return _Asked(
        from_path(request.path_params["name"]),
        unquote(request.cookies.get(_cookie(request), ""))[:LONGEST_NAME],
        row=given.get("row", ""),
        last=given.get("last", ""),
        look=look if look in LOOKS else LOOKS[0],
        more=given.get("more") == "1",
    )


def _given(form: FormData) -> Given:
    texts = {
        name.removeprefix(_FIELD): value
        for name, value in form.multi_items()
        if name.startswith(_FIELD) and isinstance(value, str)
    }
    reason = form.get("reason")
    labels = tuple(label for label in form.getlist("label") if isinstance(label, str))
    return Given(labels, reason if isinstance(reason, str) else "", texts)


def _cookie(request: Request) -> str:
    """The cookie with the reviewer's name. Cookies do not know ports, so two pages on one machine need two names."""
    return f"engine_reviewer_{site_of(request).access.port}"


ROUTES = [
    Route("/reviews", show_reviews),
    Route("/reviews/{name:path}", show_review, methods=["GET"]),
    Route("/reviews/{name:path}", answer_review, methods=["POST"]),
]
