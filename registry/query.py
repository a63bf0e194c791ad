"""SQL over the registry: read-only, and confined to what the public views show.

A query runs in a database in memory that has no access to files. Datasets appear as Arrow scans, attached when the
query names them; only SELECT and EXPLAIN are let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from registry import side
from registry.catalog import Catalog, sql
from registry.store import ObjectStore

_DATASET = re.compile(r"(?P<name>[^@]+?)(?:@(?P<version>\d+))?")
_EXPLAIN = re.compile(r"^\s*explain\s+(?:analyze\s+|\([^)]*\)\s*)?", re.IGNORECASE)
_CONFINE = (
    "set autoinstall_known_extensions=false",
    "set autoload_known_extensions=false",
    "set enable_external_access=false",
    "set lock_configuration=true",
)


_NAMED = (("name", pa.string()), ("version", pa.int32()))
_EDGES = {
    "lineage_edges": side.with_columns(side.LINEAGE, (("child", pa.string()), ("child_version", pa.int32()))),
    "call_edges": side.with_columns(side.CALLS, (*_NAMED, ("base", pa.int64()))),
    "reject_edges": side.with_columns(side.REJECTS, _NAMED),
}
_SIDE_VIEWS = re.compile(r"\b(?:row_lineage|llm_calls|rejects|trace|\w+_edges)\b", re.IGNORECASE)
"""Names behind which side objects stand: only a query with one of them opens any."""


class QueryError(ValueError):
    """A query that is refused or that DuckDB could not run; the message is for the user."""


class Answer(NamedTuple):
    """A query's result."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


class Session:
    """One snapshot of the catalog to ask questions of."""

    def __init__(self, catalog: Catalog, store: ObjectStore) -> None:
        self._catalog = catalog
        self._store = store
        self._con = catalog.snapshot()
        self._attached: set[str] = set()
        for name, schema in _EDGES.items():
            self._con.register(name, pa.Table.from_batches([], schema))  # empty_table() imports pandas
        self._con.execute(sql("views.sql"))
        self._con.execute(sql("macros.sql"))
        for statement in _CONFINE:
            self._con.execute(statement)

    def close(self) -> None:
        """Let the database go."""
        self._con.close()

    def ask(self, query: str, parameters: list[Any] | None = None) -> Answer:
        """Run one SELECT or EXPLAIN; raises QueryError with DuckDB's words for anything else or anything wrong."""
        statement = self._allowed(query)
        self._attach_named(query)
        try:
            cursor = self._con.execute(statement, parameters) if parameters else self._con.execute(statement)
            return Answer([column[0] for column in cursor.description or []], cursor.fetchall())
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise QueryError(str(error).strip()) from error

    def names(self) -> list[str]:
        """The names of all datasets, models and calibrations."""
        found = self._con.execute("select distinct name from internal.versions order by name").fetchall()
        return [name for (name,) in found]

    def resolve(self, target: str) -> tuple[str, int]:
        """`NAME` or `NAME@V` to name and version; raises QueryError when there is no such version."""
        match = _DATASET.fullmatch(target)
        name, version = (match["name"], match["version"]) if match else (target, None)
        found = self.ask(
            "select v.version, d.latest_version from versions v join datasets d using (name) where v.name = ?", [name]
        ).rows
        if not found:
            close = get_close_matches(name, self.names(), n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else " `engine ls` shows what there is."
            raise QueryError(f"the registry has no dataset, model or calibration named {name!r}.{hint}")
        if version is None and found[0][1] is None:
            versions = ", ".join(f"{name}@{v}" for v, _ in sorted(found))
            raise QueryError(f"{name!r} has no latest version, because no run that made it has succeeded. There is {versions}.")
        wanted = int(version) if version else found[0][1]
        if wanted not in [v for v, _ in found]:
            versions = ", ".join(str(v) for v, _ in sorted(found))
            raise QueryError(f"{name!r} has no version {wanted}; it has {versions}.")
        return name, wanted

    def shape(self, name: str, version: int) -> tuple[str, dict[str, str]]:
        """The record type of a version, and its fields (name -> type)."""
        [(kind, fields)] = self._con.execute(
            "select type, fields from internal.versions where name = ? and version = ?", [name, version]
        ).fetchall()
        return kind, json.loads(fields)

    def has_step(self, step_key: str) -> bool:
        """Whether a version was committed under this step key."""
        found = self._con.execute("select 1 from internal.versions where step_key = ? limit 1", [step_key]).fetchall()
        return bool(found)

    def table(self, target: str) -> pa.Table:
        """A version's rows (`NAME` or `NAME@V`) as Arrow, read whole with every checksum verified."""
        return self._rows(*self.resolve(target))

    # -- inside -------------------------------------------------------------------------------------------------

    def _allowed(self, query: str) -> duckdb.Statement:
        try:
            statements = self._con.extract_statements(query)
        except duckdb.Error as error:
            raise QueryError(str(error).strip()) from error
        if len(statements) != 1:
            raise QueryError(f"give one SQL statement at a time; this is {len(statements)}")
        if not self._only_reads(query, statements[0]):
            kind = str(statements[0].type).rpartition(".")[2]
            raise QueryError(f"the registry is read-only: {kind} statements are refused, only SELECT (and EXPLAIN) may run")
        return statements[0]

    def _only_reads(self, query: str, statement: duckdb.Statement) -> bool:
        if statement.type != duckdb.StatementType.EXPLAIN:
            return bool(statement.type == duckdb.StatementType.SELECT)
        # EXPLAIN ANALYZE runs what it explains.
        explained = _EXPLAIN.sub("", query, count=1)
        return [inner.type for inner in self._con.extract_statements(explained)] == [duckdb.StatementType.SELECT]

    def _attach_named(self, query: str) -> None:
        try:
            named = self._con.get_table_names(query.strip().rstrip(";"))
        except duckdb.Error:
            return  # the same error comes back, with its place, when the query runs
        if _SIDE_VIEWS.search(query) and "edges" not in self._attached:
            for name, schema in _EDGES.items():
                self._con.register(name, self._side(name, schema))
            self._attached.add("edges")
        known = set(self.names()) if named - self._attached else set()
        for label in named - self._attached:
            match = _DATASET.fullmatch(label)
            if match and match["name"] in known:
                self._con.register(label, self._rows(*self.resolve(label)))
                self._attached.add(label)

    def _rows(self, name: str, version: int) -> pa.Table:
        [(version_id,)] = self._con.execute(
            "select version_id from internal.versions where name = ? and version = ?", [name, version]
        ).fetchall()
        manifest = self._catalog.manifest(version_id)
        parts = [self._store.read_table(data.sha256) for data in manifest.data]
        table = pa.concat_tables(parts)
        return table.add_column(0, "row", pa.array(range(table.num_rows), pa.int64()))

    def _side(self, kind: str, schema: pa.Schema) -> Any:
        wanted = {"lineage_edges": "lineage", "call_edges": "calls", "reject_edges": "rejects"}[kind]
        keys: dict[str, Callable[[tuple[Any, ...]], dict[str, str | int]]] = {
            "lineage": lambda r: {"child": r[0], "child_version": r[1]},
            "calls": lambda r: {"name": r[0], "version": r[1], "base": r[3]},
            "rejects": lambda r: {"name": r[0], "version": r[1]},
        }
        found = self._con.execute("select name, version, sha256, base from internal.side_objects where kind = ?", [wanted])
        fragments = [side.Fragment(Path(self._store.path(row[2])), keys[wanted](row)) for row in found.fetchall()]
        return side.scan(fragments, schema)
