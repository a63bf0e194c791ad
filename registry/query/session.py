"""SQL over the registry: read-only, and confined to the public views and datasets.

A query runs in an in-memory database without access to files, in a transaction that cannot write. Datasets are Arrow scans
that are attached when the query names them. Only SELECT and EXPLAIN are allowed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, groupby
from threading import Thread
from threading import enumerate as threads
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from registry.catalog import side_schemas
from registry.catalog.catalog import Catalog
from registry.catalog.manifest import Manifest
from registry.catalog.sql_files import sql
from registry.errors import CorruptError, QueryError
from registry.lineage.lineage import Lineage
from registry.lineage.targets import Version, parse
from registry.query import side_tables
from registry.query.confinement import confine, memory_limit, set_memory_limit
from registry.query.limits import Deadline
from registry.query.named_versions import NamedVersions
from registry.query.query_errors import explained
from registry.query.read_only_sql import Reading, reading
from registry.query.result import QueryResult
from registry.query.review_table import SCHEMA, review_table
from registry.query.table_functions import CALLS, create
from registry.records.arrays import int64_array
from registry.records.content import id_of
from registry.reviews.decisions import Decision, by_queue, current
from registry.reviews.store import ReviewStore
from registry.storage.objects import ObjectStore

if TYPE_CHECKING:
    from registry.query.verified_scan import ReadColumns

_BATCH = 2048
_INTERRUPT_SECONDS = 0.1
"""DuckDB forgets an interrupt that arrives between two of its steps, so it is repeated."""

_READINGS, _MANIFESTS = 256, 64
"""Queries whose check, and versions whose manifest is kept: many requests ask the same."""

_LONG_QUERY = 10_000
"""Characters of a query whose check is not kept."""

_NAMED = (("name", pa.string()), ("version", pa.int32()))
_EDGES = {
    "lineage_edges": side_tables.with_columns(side_schemas.LINEAGE, (("child", pa.string()), ("child_version", pa.int32()))),
    "call_edges": side_tables.with_columns(side_schemas.CALLS, (*_NAMED, ("base", pa.int64()))),
    "reject_edges": side_tables.with_columns(side_schemas.REJECTS, _NAMED),
    "exposure_edges": side_tables.with_columns(side_schemas.EXPOSURE, _NAMED),
}
_SIDE_VIEWS = re.compile(r"\b(?:row_lineage|llm_calls|rejects|training_exposure|\w+_edges)\b", re.IGNORECASE)
"""The views that read side objects: only a query that names one of them opens any."""

_REVIEWS = re.compile(r"\breviews\b|\breview_decisions\b", re.IGNORECASE)
"""The view with the decisions of reviews: only a query that names it reads their files."""

_FUNCTIONS = re.compile(rf"\b(?:{'|'.join(CALLS)})\b", re.IGNORECASE)


class Session(NamedVersions):
    """A snapshot of the catalog that answers queries, one after the other.

    Args:
        reviews: the decisions of reviews; they are read when a query names them.
        memory: the limit for DuckDB: `4GB` or `50%` (of the machine); the default is 80%.
        read: gives columns of an object of rows, verified; called from several threads. Without it, queries read them from the
            store each time.

    Attributes:
        state: identifies the state of the catalog that it shows; None if that is unknown.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        reviews: ReviewStore,
        memory: str | None = None,
        read: ReadColumns | None = None,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._read = read
        self.reviews = reviews
        self._held = catalog.reading()  # no version is removed while the session is open
        self.state = catalog.state()  # before the snapshot: what changes meanwhile makes another state
        try:
            self._con = catalog.snapshot()
        except BaseException:
            self._held.close()
            raise
        con = self._con  # not self, which would keep a closed session in memory until the next garbage collection
        super().__init__(lambda query, values: con.execute(query, values).fetchall(), "internal.")
        self._attached: set[str] = set()
        self._read_before: dict[str, Reading] = {}
        self._manifests: dict[Version, Manifest] = {}
        self._failed: list[Exception] = []
        self._missing: list[str] = []
        for name, schema in _EDGES.items():
            self._con.register(name, pa.Table.from_batches([], schema))  # empty_table() imports pandas
        self._con.register("review_decisions", pa.Table.from_batches([], SCHEMA))
        self._con.execute(sql("views.sql"))
        self._confine(memory)

    def close(self) -> None:
        """Close the database."""
        self._con.close()
        self._held.close()

    def rest(self) -> None:
        """Let versions be removed while the session is not used. It must not be used again before `wake`."""
        self._held.close()

    def wake(self) -> bool:
        """Use the session again after `rest`; returns whether it still shows what the registry holds. Otherwise close it."""
        self._held = self._catalog.reading()
        self._attached.discard("reviews")  # the files of reviews change without the catalog
        self.__dict__.pop("_decisions", None)
        return self.state is not None and self._catalog.state() == self.state

    @property
    def memory(self) -> int:
        """The memory limit of DuckDB, in bytes."""
        return memory_limit(self._con)

    def ask(
        self,
        query: str,
        parameters: list[Any] | None = None,
        timeout: float | None = None,
        last_resort: Callable[[], None] | None = None,
    ) -> QueryResult:
        """Run one SELECT or EXPLAIN.

        Raises:
            QueryError: the query is something else, or DuckDB cannot run it; has DuckDB's message.
            CorruptError: data cannot be read, or lineage, calls, rejects or exposures that the query needs are missing.
        """
        with self.stream(query, parameters, timeout, last_resort) as (columns, batches):
            answer = QueryResult(columns, [row for batch in batches for row in batch])
        if left_out := self.left_out():
            raise CorruptError(left_out[0])
        return answer

    @contextmanager
    def stream(
        self,
        query: str,
        parameters: list[Any] | None = None,
        timeout: float | None = None,
        last_resort: Callable[[], None] | None = None,
    ) -> Iterator[tuple[list[str], Iterator[list[tuple[Any, ...]]]]]:
        """Run one SELECT or EXPLAIN; yields its columns, and its rows in batches that are computed while they are read.

        Args:
            timeout: seconds that the query may take, without the time between batches.
            last_resort: called when DuckDB ignores the timeout.

        Raises:
            QueryError: as for `ask`, at once or while the rows are read.
        """
        deadline = Deadline(timeout, self._con.interrupt, last_resort)
        with self._reading(query, deadline) as statement:
            with explained(deadline, self._failed), deadline.running():
                cursor = self._con.execute(statement, parameters) if parameters else self._con.execute(statement)
                columns = [column[0] for column in cursor.description or []]
            yield columns, self._batches(cursor, deadline)

    def arrow(self, query: str, parameters: list[Any] | None = None, timeout: float | None = None) -> pa.Table:
        """The result of one SELECT or EXPLAIN as an Arrow table; the errors are those of `ask`."""
        deadline = Deadline(timeout, self._con.interrupt)
        # Python handles Ctrl-C between its own instructions, but DuckDB does not return before the query ends. So it runs in
        # another thread.
        table: Future[pa.Table] = Future()
        with self._reading(query, deadline) as statement:
            thread = Thread(target=self._to_arrow, args=(table, statement, parameters, deadline))
            try:
                thread.start()
                table.exception()
            except KeyboardInterrupt:
                # Not `is_alive`: it may be about to start, and an interrupted `join` takes a running thread for ended.
                while thread in threads() and not table.done():
                    self._con.interrupt()
                    wait([table], _INTERRUPT_SECONDS)
                raise
        found = table.result()
        if left_out := self.left_out():
            raise CorruptError(left_out[0])
        return found

    def _to_arrow(self, table: Future[pa.Table], statement: str, parameters: list[Any] | None, deadline: Deadline) -> None:
        try:
            with explained(deadline, self._failed), deadline.running():
                # Not `execute`, whose results are copied on their way to Arrow.
                relation = self._con.sql(statement, params=parameters) if parameters else self._con.sql(statement)
                table.set_result(relation.to_arrow_table())
        except BaseException as error:  # it is raised where the table is wanted
            table.set_exception(error)

    def left_out(self) -> list[str]:
        """The missing objects with calls, lineage, rejects or exposures that the last query left out, one sentence each."""
        query = "select name, version, kind from internal.side_objects where sha256 = ?"
        found = []
        for sha256 in dict.fromkeys(self._missing):
            uses = sorted(set(self._con.execute(query, [sha256]).fetchall()))
            of = ", ".join(f"{kind} of {name}@{version}" for name, version, kind in uses)
            found.append(f"object {sha256} ({of}) is missing from {self._store.root}")
        return found

    @cached_property
    def lineage(self) -> Lineage:
        """The lineage of versions and rows."""
        return Lineage(self._con, self._store)

    def records_at(self, version: Version, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Rows of a version by their numbers. Only the objects that contain them are read."""
        data = self.manifest(*version).data
        stops = list(accumulate(part.rows for part in data))
        found: dict[int, dict[str, Any]] = {}
        for place, numbers in groupby(sorted(set(map(int, rows))), key=lambda row: bisect_right(stops, row)):
            wanted = list(numbers)
            first = stops[place] - data[place].rows
            table = self._store.read_table(data[place].sha256).take(int64_array(np.array(wanted) - first))
            found |= dict(zip(wanted, table.to_pylist(), strict=True))
        return found

    def decisions_about(self, record: Mapping[str, Any]) -> list[Decision]:
        """What reviewers decided about the content of a row, by review, as far as it counts.

        Args:
            record: as `records_at` returns it.
        """
        if not self._decisions:
            return []
        row_id = id_of(record)
        return [each for made in self._decisions for each in made.get(row_id, ())]

    @cached_property
    def _decisions(self) -> list[dict[str, tuple[Decision, ...]]]:
        """The decisions that count, of each review."""
        return [current(made) for _, made in sorted(by_queue(self.reviews.decisions()).items())]

    def table(self, target: str) -> pa.Table:
        """All rows of a version (`NAME` or `NAME@V`) as Arrow, with every checksum verified."""
        return self._rows(*self.resolve(target))

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self, query: str, deadline: Deadline) -> Iterator[str]:
        """Check a query, attach what it names, and yield it as a statement, in a transaction that cannot write."""
        self._failed.clear()
        self._missing.clear()
        with explained(deadline, self._failed), deadline.running():
            statement, tables = self._read_before.get(query) or reading(self._con, query, frozenset(CALLS))
        if len(self._read_before) < _READINGS and len(query) < _LONG_QUERY:
            self._read_before[query] = Reading(statement, tables)
        self._attach_named(query, tables)
        self._con.execute("begin transaction read only")
        try:
            yield statement
        finally:
            self._con.execute("rollback")

    def _confine(self, memory: str | None) -> None:
        if memory:
            try:
                set_memory_limit(self._con, memory)
            except duckdb.Error as error:
                reason = str(error).splitlines()[0]
                raise QueryError(f"{memory!r} is not an amount of memory; write 4GB, 500MB or 50%. {reason}") from error
        confine(self._con)

    def _batches(self, cursor: duckdb.DuckDBPyConnection, deadline: Deadline) -> Iterator[list[tuple[Any, ...]]]:
        while True:
            with explained(deadline, self._failed), deadline.running():
                batch = cursor.fetchmany(_BATCH)
            if not batch:
                return
            yield batch

    def _attach_named(self, query: str, tables: set[str]) -> None:
        if _SIDE_VIEWS.search(query) and "edges" not in self._attached:
            for name, schema in _EDGES.items():
                self._con.register(name, self._side(name, schema))
            self._attached.add("edges")
        if _REVIEWS.search(query) and "reviews" not in self._attached:
            self._con.register("review_decisions", review_table(self.reviews))
            self._attached.add("reviews")
        if _FUNCTIONS.search(query) and "functions" not in self._attached:
            create(self._con, self.lineage, self._failed)
            self._attached.add("functions")
        known = set(self.names()) if tables - self._attached else set()
        for label in tables - self._attached:
            # No view has a slash in its name: what has one can only be meant as a dataset.
            if "/" in label or parse(label)[0] in known:
                self._attach(label)

    def _attach(self, label: str) -> None:
        """Make a version a view that reads only the columns that a query uses."""
        scan, view = ('"{}"'.format(name.replace('"', '""')) for name in (f"rows of {label}", label))
        self._con.register(f"rows of {label}", self._scan(*self.resolve(label)))
        # Arrow returns the rows in the order of the files, and a window without an order keeps that order.
        columns = "*" if self._read else "row_number() over () - 1 as row, *"
        self._con.execute(f"create temp view {view} as select {columns} from {scan}")
        self._attached.add(label)

    def _scan(self, name: str, version: int) -> Any:
        parts = [(data.sha256, data.rows) for data in self.manifest(name, version).data]
        schema = self._schema(parts[0][0], f"{name}@{version}")
        return side_tables.rows(parts, schema, self._store, self._read)

    def _schema(self, sha256: str, version: str) -> pa.Schema:
        """The columns of an object of a version."""
        import pyarrow.parquet as pq  # most queries do without

        try:
            return pq.ParquetFile(self._store.open(sha256)).schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(f"object {sha256} of {version} is not readable as Parquet: {error}") from error

    def _rows(self, name: str, version: int) -> pa.Table:
        objects = [data.sha256 for data in self.manifest(name, version).data]
        names, read = self._schema(objects[0], f"{name}@{version}").names, self._read or self._store.read_table
        table = pa.concat_tables([read(sha256, names) for sha256 in objects])
        return table.add_column(0, "row", int64_array(np.arange(table.num_rows)))

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version, which must exist. Raises MismatchError or CorruptError."""
        known = self._manifests.get(Version(name, version))
        if known is None:
            found = self._con.execute(
                "select version_id from internal.versions where name = ? and version = ?", [name, version]
            ).fetchall()
            known = self._catalog.files.manifest_of(name, version, [version_id for (version_id,) in found])
            if len(self._manifests) >= _MANIFESTS:
                self._manifests.pop(next(iter(self._manifests)))
            self._manifests[Version(name, version)] = known
        return known

    def _side(self, kind: str, schema: pa.Schema) -> Any:
        wanted = {"lineage_edges": "lineage", "call_edges": "calls", "reject_edges": "rejects", "exposure_edges": "exposure"}[
            kind
        ]
        keys: dict[str, Callable[[tuple[Any, ...]], dict[str, str | int]]] = {
            "lineage": lambda r: {"child": r[0], "child_version": r[1]},
            "calls": lambda r: {"name": r[0], "version": r[1], "base": r[3]},
            "rejects": lambda r: {"name": r[0], "version": r[1]},
            "exposure": lambda r: {"name": r[0], "version": r[1]},
        }
        found = self._con.execute("select name, version, sha256, base from internal.side_objects where kind = ?", [wanted])
        fragments = [side_tables.Fragment(row[2], keys[wanted](row)) for row in found.fetchall()]
        return side_tables.scan(fragments, schema, self._store, self._missing)
