"""A registry that was opened for reading: `engine.open`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api import html
from engine.api.dataset import Dataset
from engine.cli.opening import DEFAULT_REGISTRY, existing_registry
from registry import Registry
from registry.counted import counted
from registry.errors import UnknownVersionError

if TYPE_CHECKING:
    import pyarrow as pa

OTHER = "engine.open(DIR), or registry=DIR"
"""How to name another registry."""

_SHOWN = ("name", "kind", "type", "latest_version", "rows", "updated_at")


def open(location: str | Path | None = None) -> OpenRegistry:
    """Open a registry for reading.

    Args:
        location: a folder or a URL such as `s3://bucket/prefix` (default: ENGINE_REGISTRY, or `.engine` in the working
            directory).

    Raises:
        PipelineError: there is no registry; the text says what to do.
    """
    where = registry_location(location)
    return OpenRegistry(where, existing_registry(where, OTHER))


def registry_location(location: str | Path | None) -> str:
    """The registry that is meant: the given one, or that of the environment, or the default."""
    return os.fspath(location) if location else os.environ.get("ENGINE_REGISTRY") or DEFAULT_REGISTRY


class OpenRegistry:
    """A registry. `registry["gsm/rows@3"]` is a version, `registry["gsm/rows"]` the one that is the latest now.

    Iterating yields the names of datasets, models, calibrations and reports that have a latest version. `datasets()` also lists
    the others, whose versions open as `NAME@V`. Several threads may use it.

    Args:
        location: the folder or URL, as the user named it.
        registry: the same, opened.
    """

    def __init__(self, location: str, registry: Registry) -> None:
        self.location = location
        self._registry = registry

    def __getitem__(self, target: str) -> Dataset:
        """The version that `NAME@V` means, or `NAME` for the latest.

        Raises:
            UnknownVersionError: there is none; the text lists what there is. It is a KeyError as well.
        """
        if not isinstance(target, str):
            raise TypeError(f"a version is named by a string such as 'gsm/rows@3', not by {target!r:.100}")
        with self._registry.session() as session:
            return Dataset(self._registry, session.manifest(*session.resolve(target)))

    def __contains__(self, target: object) -> bool:
        try:
            return isinstance(target, str) and bool(self[target].ref)
        except UnknownVersionError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter([str(row["name"]) for row in self.datasets() if row["latest_version"] is not None])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def datasets(self) -> list[dict[str, Any]]:
        """All datasets, models, calibrations and reports: the rows of the view `datasets`, like `engine ls --json`."""
        return self._registry.listing("datasets")

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first: the rows of the view `runs`, like `engine runs --json`."""
        self._registry.catalog.mark_dead_runs()
        return sorted(self._registry.listing("runs"), key=lambda row: row["started_at"], reverse=True)

    def sql(
        self,
        query: str,
        parameters: Sequence[Any] | None = None,
        *,
        timeout: float | None = 300,
        memory: str = "50%",
    ) -> pa.Table:
        """The result of one SELECT (or EXPLAIN) as an Arrow table. It is as read-only and confined as `engine sql`.

        Args:
            query: may use the views, the table functions and all datasets by name, as described in the SQL reference.
            parameters: values for each `?` in the query.
            timeout: seconds after which the query is stopped; None for no limit.
            memory: the maximum memory that DuckDB may take: `4GB`, or `50%` of the machine's.

        Raises:
            QueryError: the query is refused, or wrong; LimitError if it takes too long or too much memory.
            CorruptError: data that it needs is damaged or missing.
        """
        with self._registry.session(memory) as session:
            return session.arrow(query, list(parameters) if parameters else None, timeout)

    def __repr__(self) -> str:
        names = list(self)
        first = f" ({', '.join(names[:5])}...)" if len(names) > 5 else ""
        return f"<registry {self.location}: {counted(names, 'name')}{first}>"

    def _repr_html_(self) -> str:
        rows = self.datasets()
        columns = list(_SHOWN)
        return html.table(f"registry {self.location}", columns, rows, "" if rows else "It is empty.")
