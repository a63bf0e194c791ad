"""Runs expressions and queries over Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import StepError
from engine.operator.sql.binding import ROWS, BoundQuery
from engine.operator.sql.database import RUN_SECONDS, RowError, SqlError, database, limited, plain_words, timed
from engine.operator.sql.duck_types import duck_type, field_type, quoted
from engine.operator.sql.lineage import LINEAGE, SHIFT

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class Evaluated(NamedTuple):
    """The values of expressions.

    Attributes:
        rows: the rows whose values could all be computed.
        columns: the values of each column, by its name.
        failed: the other rows, by number, and why.
    """

    rows: pa.Table
    columns: pa.Table
    failed: dict[int, str]


class QueryRows(NamedTuple):
    """The rows of a query, and for each its sources, as (input, row); None where these are not known."""

    table: pa.Table
    sources: list[list[tuple[str, int]]] | None


def evaluate(table: pa.Table, expressions: Mapping[str, str]) -> Evaluated:
    """The values of expressions over the rows of a table, in the types that `bind_expressions` answers.

    Args:
        table: the rows. Columns whose names start with an underscore are not part of them.
        expressions: the expressions, by name.
    """
    rows = table.select([name for name in table.column_names if not name.startswith("_")])
    texts = dict(_cast(rows.schema, tuple(expressions.items())))
    try:
        return Evaluated(table, _values(rows, texts), {})
    except RowError:
        failed = _failing(rows, _suspects(rows, texts), texts)
    try:
        return _without(table, rows, texts, failed)
    except RowError:  # a row fails in a way that TRY does not see
        failed = _failing(rows, range(rows.num_rows), texts)
    try:
        return _without(table, rows, texts, failed)
    except RowError as error:
        raise StepError(f"{', '.join(expressions)}: {error}; no single row causes it") from error


@lru_cache(maxsize=256)
def _cast(schema: pa.Schema, expressions: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The expressions with casts to the types of fields: sum() is a HUGEINT, for example."""
    texts = {name: f"({text}\n)" for name, text in expressions}
    with _registered({ROWS: schema.empty_table()}), limited(RUN_SECONDS) as con:
        relation = con.sql(f"select {', '.join(texts.values())} from {ROWS}")
        assert relation is not None
        types = list(relation.types)
    casts = (f"cast({text} as {duck_type(field_type(found))})" for text, found in zip(texts.values(), types, strict=True))
    return tuple(zip(texts, casts, strict=True))


def _values(rows: pa.Table, texts: Mapping[str, str]) -> pa.Table:
    columns = ", ".join(f"{text} as {quoted(name)}" for name, text in texts.items())
    with _registered({ROWS: rows}):
        return _fetched(f"select {columns} from {ROWS}")


def _suspects(rows: pa.Table, texts: Mapping[str, str]) -> Iterable[int]:
    """The rows that may fail; there are no others."""
    values = ", ".join(f"{quoted(name)} := {text}" for name, text in texts.items())
    try:
        with _registered({ROWS: rows}), limited(RUN_SECONDS) as con:
            relation = con.sql(f"select try(struct_pack({values})) is null from {ROWS}")
            assert relation is not None
            return [row for row, (fails,) in enumerate(relation.fetchall()) if fails]
    except (SqlError, RowError):  # TRY does not take every function
        return range(rows.num_rows)


def _failing(rows: pa.Table, suspects: Iterable[int], texts: Mapping[str, str]) -> dict[int, str]:
    """The rows that fail, each computed alone, and why."""
    failed = {}
    with timed(RUN_SECONDS) as con:
        for row in suspects:
            with _registered({ROWS: rows.slice(row, 1)}):
                for name, text in texts.items():
                    if reason := _reason(con, text):
                        failed[row] = f"{name}: {reason}"
                        break
    return failed


def _reason(con: duckdb.DuckDBPyConnection, text: str) -> str:
    """Why an expression fails for the only row; empty if it does not."""
    import duckdb

    try:
        relation = con.sql(f"select {text} from {ROWS}")
        assert relation is not None
        relation.fetchall()
    except (duckdb.InterruptException, duckdb.OutOfMemoryException):
        raise
    except duckdb.Error as error:
        return plain_words(error)
    return ""


def _without(table: pa.Table, rows: pa.Table, texts: Mapping[str, str], failed: dict[int, str]) -> Evaluated:
    """The values of the other rows."""
    import pyarrow as pa

    computed = pa.array([row for row in range(rows.num_rows) if row not in failed], pa.int64())
    return Evaluated(table.take(computed), _values(rows.take(computed), texts), failed)


def run_query(bound: BoundQuery, tables: Mapping[str, pa.Table]) -> QueryRows:
    """The rows of a query over these tables.

    Without ORDER BY they are in the order of the rows that they come from.

    Raises:
        StepError: a value cannot be computed, or the query needs too much.
    """
    import pyarrow as pa

    given = {name: table.append_column(LINEAGE, pa.array(range(table.num_rows), pa.int64())) for name, table in tables.items()}
    columns = ", ".join(f"cast({quoted(each.name)} as {duck_type(each.type)}) as {quoted(each.name)}" for each in bound.fields)
    more = "" if bound.gap else f", {quoted(LINEAGE)}"
    try:
        with _registered(tables if bound.gap else given):
            found = _fetched(f"select {columns}{more} from ({bound.statement}\n)")
    except RowError as error:
        raise StepError(f"the query failed: {error}") from error
    if bound.gap:
        return QueryRows(found, None)
    by_name = {name.lower(): name for name in tables}
    names = [by_name[name] for name in bound.order]
    codes = found.column(LINEAGE).to_pylist()
    found = found.drop_columns([LINEAGE])
    if not bound.sorted:
        places = sorted(range(len(codes)), key=codes.__getitem__)
        found, codes = found.take(pa.array(places, pa.int64())), [codes[place] for place in places]
    mask = (1 << SHIFT) - 1
    return QueryRows(found, [[(names[code >> SHIFT], code & mask) for code in row] for row in codes])


@contextmanager
def _registered(tables: Mapping[str, pa.Table]) -> Iterator[None]:
    con = database()
    for name, table in tables.items():
        con.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            con.unregister(name)


def _fetched(query: str) -> pa.Table:
    try:
        with limited(RUN_SECONDS) as con:
            relation = con.sql(query)
            assert relation is not None
            return relation.to_arrow_table()
    except SqlError as error:  # `check` has bound it
        raise StepError(f"DuckDB reads the SQL differently over these rows: {error}") from error
