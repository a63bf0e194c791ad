"""Renders pages of a bundle by the routes of the live page, all of one snapshot of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.routing import BaseRoute, Match

from engine.page.access import PLOT_STYLE
from engine.page.bundle.file_links import FileLinks, file_of
from engine.page.rendering.pages import Frame
from engine.page.routes import row, run, values, versions
from engine.page.sessions import Reader, Sessions

_ROUTES: list[BaseRoute] = [*run.ROUTES, *versions.ROUTES, *row.ROUTES, *values.ROUTES]

POLICY = (
    # `file:` is for browsers in which 'self' does not include files.
    f"default-src 'none'; script-src 'self' file:; style-src 'self' file: {PLOT_STYLE}; img-src 'self' file: data:; "
    "form-action 'none'; base-uri 'none'"
)
"""What a page may load: files beside it."""


@dataclass(frozen=True)
class Page:
    """A page of a bundle: its file, its HTML, and the addresses that it refers to."""

    file: str
    text: str
    asked: tuple[str, ...]


class Snapshot(Sessions):
    """Gives all pages the same session, so that they agree."""

    def __init__(self, location: str, reader: Reader) -> None:
        super().__init__(location)
        self._reader = reader

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """The reader. Pages of a bundle are made one after the other."""
        yield self._reader


@dataclass(frozen=True)
class _Site:
    """The part of a site that the routes of these pages use."""

    sessions: Sessions
    frame: Frame


@dataclass(frozen=True)
class Pages:
    """Makes the pages of a bundle.

    Args:
        start: the address of the page that it begins with.
        name: the name of the run or version, for the head of each page.
    """

    snapshot: Snapshot
    start: str
    name: str

    def page(self, address: str, also: Mapping[str, str] | None = None) -> Page:
        """The page of an address, as ADDRESSES gives it.

        Args:
            also: additional parameters of the page, which are not in the name of its file.

        Raises:
            RegistryError: what it shows cannot be read.
        """
        file = file_of(address, self.start)
        links = FileLinks("../" if "/" in file else "", self.start)
        frame = Frame(links, self.name, is_copy=True, policy=POLICY)
        path, _, query = address.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": f"/{unquote(path)}",
            "root_path": "",
            "query_string": "&".join(part for part in (query, urlencode(also or {})) if part).encode(),
            "headers": [],
            "app": SimpleNamespace(state=SimpleNamespace(site=_Site(self.snapshot, frame))),
        }
        for route in _ROUTES:
            match, found = route.matches(scope)
            if match is Match.FULL:
                response = found["endpoint"](Request({**scope, **found}))
                assert response.status_code == 200, f"{address}: {response.status_code}"
                return Page(file, bytes(response.body).decode(), tuple(links.asked))
        raise LookupError(f"no page of a bundle is at {address!r}")
