"""Addresses of pages. All of them are made here, so that the same templates serve a live page and a folder of files."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlencode

Query = str | int | None


@dataclass(frozen=True)
class Links:
    """The addresses of a live page.

    Args:
        root: how the page that is being rendered refers to the top.
    """

    root: str = "/"

    def home(self, **query: Query) -> str:
        """Pipelines, runs, datasets."""
        return self._live("", query)

    def run(self, run_id: str, **query: Query) -> str:
        """A run."""
        return self._live(f"runs/{quote(run_id, safe='')}", query)

    def version(self, name: str, version: int, **query: Query) -> str:
        """A version of a dataset, model, calibration or report."""
        return self._live(f"versions/{in_path(f'{name}@{version}')}", query)

    def latest(self, name: str) -> str:
        """The latest version of a name."""
        return self._live(f"versions/{in_path(name)}", {})

    def row(self, name: str, version: int, row: int) -> str:
        """A row of a version."""
        return self._live(f"rows/{row}/{in_path(f'{name}@{version}')}", {})

    def value(self, name: str, version: int, row: int, path: str, **query: Query) -> str:
        """A value of a row, whole."""
        return self._live(f"values/{row}/{in_path(f'{name}@{version}')}", {"path": path, **query})

    def sql(self, query: str = "", **more: Query) -> str:
        """Queries."""
        return self._live("sql", {"q": query, **more})

    def costs(self, **query: Query) -> str:
        """What runs cost."""
        return self._live("costs", query)

    def reviews(self) -> str:
        """All reviews."""
        return self._live("reviews", {})

    def review(self, name: str, **query: Query) -> str:
        """A review."""
        return self._live(f"reviews/{in_path(name)}", query)

    def live(self, part: str, **query: Query) -> str:
        """A part of a page that changes while runs are running."""
        return self._live(f"live/{part}", query)

    def static(self, file: str, digest: str) -> str:
        """A style sheet, script or picture. The digest lets browsers keep it."""
        return self._live(f"static/{file}", {"v": digest[:12]})

    def _live(self, path: str, query: dict[str, Query]) -> str:
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self.root}{path}" + (f"?{urlencode(given)}" if given else "")


def in_path(target: str) -> str:
    """`NAME@V` as a part of an address. Browsers resolve `.` and drop empty parts, so such parts get a `~`."""
    parts = (f"~{part}" if part in ("", ".", "..") or part.startswith("~") else part for part in target.split("/"))
    return "/".join(quote(part, safe="@=,+:") for part in parts)


def from_path(path: str) -> str:
    """The argument of `in_path`; `path` is already decoded."""
    return "/".join(part.removeprefix("~") for part in path.split("/"))
