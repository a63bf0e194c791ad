"""Addresses of pages as names of files, relative to the page that refers to them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode

from engine.page.links import Links, Query

INDEX = "index.html"

STATIC = "static"
"""The folder of style sheets and scripts."""

_IDENTIFY = {
    "runs": frozenset[str](),
    "versions": frozenset({"view", "look", "sort", "desc", "page"}),
    "rows": frozenset[str](),
    "values": frozenset({"path"}),
}
"""Kind of a page -> the parameters that lead to another page of a bundle."""

_READABLE = 60
"""Characters of a file's name that are taken from the page's address. A file system may allow only 143 bytes."""


@dataclass(frozen=True)
class FileLinks(Links):
    """The addresses that one page of a bundle refers to. It is for the rendering of that page alone.

    Args:
        root: how the page refers to the top: empty, or `../`.
        start: the address of the page that the bundle begins with.
        asked: the addresses that the page refers to, as ADDRESSES gives them; files that are not pages: `static/NAME`.
    """

    root: str = ""
    start: str = ""
    asked: dict[str, None] = field(default_factory=dict)

    def home(self, **query: Query) -> str:
        """The page that the bundle begins with."""
        return f"{self.root}{INDEX}"

    def static(self, file: str, digest: str) -> str:
        """A style sheet, script or picture."""
        self.asked[f"{STATIC}/{file}"] = None
        return f"{self.root}{STATIC}/{file}"

    def _live(self, path: str, query: dict[str, Query]) -> str:
        found = _identity(path, query)
        self.asked[found] = None
        return self.root + file_of(found, self.start)


class _Addresses(Links):
    """The identity of each page, which is not an address in any page."""

    def _live(self, path: str, query: dict[str, Query]) -> str:
        return _identity(path, query)


ADDRESSES = _Addresses("")
"""Makes what identifies the pages of a bundle."""


def _identity(path: str, query: dict[str, Query]) -> str:
    """The address of a page on a live page, from the top, with only the parameters that matter to a bundle."""
    known = _IDENTIFY.get(path.partition("/")[0])
    given = {name: str(value) for name, value in query.items() if value not in (None, "") and (known is None or name in known)}
    if given.get("look") in ("text", "markdown"):
        # Only tables are included in other orders than that of the rows.
        given = {name: value for name, value in given.items() if name not in ("sort", "desc")}
    if given.get("page") == "1":
        del given["page"]
    return path + (f"?{urlencode(sorted(given.items()))}" if given else "")


def file_of(found: str, start: str) -> str:
    """The file of a page, in lower-case ASCII that every file system takes.

    Part of the name is a digest, so no two pages share a file, neither where case does not count nor where names are cut.
    """
    if found == start:
        return INDEX
    path, _, query = found.partition("?")
    kind, _, rest = path.partition("/")
    values = [value for _, value in parse_qsl(query)]
    readable = re.sub(r"[^a-z0-9]+", "-", " ".join([unquote(rest), *values]).lower()).strip("-")[:_READABLE].strip("-")
    digest = hashlib.sha256(found.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{kind}/{readable}-{digest}.html" if readable else f"{kind}/{digest}.html"
