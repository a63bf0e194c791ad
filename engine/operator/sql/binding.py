"""Types of expressions and queries: DuckDB binds them over empty tables of the input types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.errors import did_you_mean
from engine.operator.sql.columns import Scope, query_columns
from engine.operator.sql.database import CHECK_SECONDS, RowError, SqlError, database, limited
from engine.operator.sql.duck_types import duck_type, field_type, quoted
from engine.operator.sql.lineage import LINEAGE, UnknownLineageError, with_lineage
from engine.operator.sql.nulls import proved
from engine.operator.sql.syntax import check_repeatable, check_tables, functions, parse, parse_expression, written
from registry import Record
from registry.records.columns import RESERVED
from registry.records.described import Described, DescribedField, DescribedType, described, name_problem

ROWS = "rows"
"""The table of the rows that an expression sees."""

_NO_COLUMN = re.compile(r'Referenced column "(?P<name>[^"]*)" (?:not found|was not found)')
_NO_TABLE = re.compile(r'Referenced table "(?P<name>[^"]*)" not found')
_NO_COLUMN_OF = re.compile(r'Table "(?P<table>[^"]*)" does not have a column named "(?P<name>[^"]*)"')
_NO_FUNCTION = re.compile(
    r"(?:Scalar |Aggregate |Table )?(?:Function|Macro)[\w ]* with name (?P<name>\S+) does not exist", re.IGNORECASE
)
_NO_MATCH = re.compile(r"No function matches the given name and argument types '(?P<call>.*)'\. You might")


@dataclass(frozen=True)
class BoundQuery:
    """A query with the types of its rows.

    Attributes:
        fields: the fields of its rows.
        statement: the SQL that is run: the query, with the sources of each row as its last column where they can be known.
        order: the inputs in the order in which the sources number them.
        gap: why the sources of the rows are not known; empty if they are.
        sorted: whether the query itself says how its rows are ordered.
    """

    fields: tuple[DescribedField, ...]
    statement: str
    order: tuple[str, ...]
    gap: str
    sorted: bool


def bind_expressions(record: type[Record], expressions: Mapping[str, str]) -> Mapping[str, DescribedType | SqlError]:
    """The type of each expression over the fields of a row, or what is wrong with it.

    A field that is passed through keeps its type. The value of another expression may be null unless its form proves that it
    is not: that of `lower(name)` is null only where `name` is.
    """
    about = described(record)
    return {name: _expression(about, text) for name, text in expressions.items()}


@lru_cache(maxsize=1024)
def _expression(about: Described, text: str) -> DescribedType | SqlError:
    names = [field.name for field in about.fields]
    try:
        tree = parse_expression(text)
        check_repeatable(tree, names)
        with _tables({ROWS: about}), _explained(names, (ROWS,)):
            [found] = _bound(f"select ({text}\n) from {ROWS}")[1]
        return proved(tree, field_type(found), Scope.of({ROWS: about.fields}).column)
    except SqlError as error:
        return SqlError(str(error))  # without the frames that it came through


def bind_query(query: str, inputs: Mapping[str, type[Record]]) -> BoundQuery:
    """The types of a query's rows.

    Args:
        query: one SELECT.
        inputs: the types of the tables that it reads, by name.

    Raises:
        SqlError: says what is wrong.
    """
    return _query(query, tuple((name, described(record)) for name, record in inputs.items()))


def lineage_gap(query: str) -> str:
    """Why the sources of a query's rows cannot be known; empty if they can, or if the query is wrong."""
    try:
        with_lineage(parse(query))
    except UnknownLineageError as error:
        return str(error)
    except SqlError:
        pass
    return ""


@lru_cache(maxsize=256)
def _query(query: str, inputs: tuple[tuple[str, Described], ...]) -> BoundQuery:
    tables = dict(inputs)
    names = [field.name for about in tables.values() for field in about.fields]
    tree = parse(query)
    check_tables(tree, tables)
    check_repeatable(tree, names)
    with _tables(tables):
        with _explained(names, tables):
            columns, found = _bound(query)
        fields = _fields(columns, found, names)
        known = query_columns(tree, {name: about.fields for name, about in tables.items()}, fields)
        try:
            rewritten = with_lineage(tree)
        except UnknownLineageError as error:
            return BoundQuery(known, query, (), str(error), True)
        statement = written(rewritten.tree)
        with _tables(tables, numbered=True):
            try:
                now, types = _bound(statement)
            except SqlError:
                now, types = [], []
        if now != [*columns, LINEAGE] or [str(each) for each in types[:-1]] != [str(each) for each in found]:
            return BoundQuery(known, query, (), "DuckDB reads the query with its row numbers differently", True)
    return BoundQuery(known, statement, rewritten.order, "", rewritten.sorted)


def _fields(columns: list[str], types: list[Any], inputs: Iterable[str]) -> tuple[DescribedField, ...]:
    """The fields of a query's rows.

    Raises:
        SqlError: a column has no name or type that a field can have.
    """
    made: dict[str, DescribedField] = {}
    known = set(inputs)
    for place, (name, found) in enumerate(zip(columns, types, strict=True), 1):
        if not name.isidentifier() and name not in known:
            raise SqlError(f"column {place} ({name}) has no name; give it one, as in `{name} as total`")
        problem = "it is reserved for the row number" if name.lower() in RESERVED else name_problem(name)
        if problem:
            raise SqlError(f"column {place} cannot be named {name!r}: {problem}; rename it, as in `{name} as other`")
        if name.lower() in made:
            raise SqlError(f"two columns are named {name!r}; rename one of them, as in `{name} as other`")
        try:
            made[name.lower()] = DescribedField(name=name, type=field_type(found))
        except SqlError as error:
            raise SqlError(f"column {name!r}: {error}") from error
    return tuple(made.values())


@contextmanager
def _tables(tables: Mapping[str, Described], *, numbered: bool = False) -> Iterator[None]:
    """Empty tables of these types, while the block runs."""
    con = database()
    more = f", {quoted(LINEAGE)} BIGINT" if numbered else ""
    try:
        for name, about in tables.items():
            fields = ", ".join(f"{quoted(field.name)} {duck_type(field.type)}" for field in about.fields)
            con.execute(f"create or replace temp table {quoted(name)} ({fields}{more})")
        yield
    finally:
        for name in tables:
            con.execute(f"drop table if exists {quoted(name)}")


def _bound(query: str) -> tuple[list[str], list[Any]]:
    """The columns of a query and their types. Nothing is computed."""
    try:
        with limited(CHECK_SECONDS) as con:
            relation = con.sql(query)
            assert relation is not None
            return list(relation.columns), list(relation.types)
    except RowError as error:  # a constant that DuckDB reads while it binds
        raise SqlError(str(error)) from error


@contextmanager
def _explained(columns: Iterable[str], tables: Iterable[str]) -> Iterator[None]:
    """Add to an error about a wrong name which one was probably meant."""
    try:
        yield
    except SqlError as error:
        raise SqlError(_explanation(str(error), sorted(set(columns)), list(tables))) from error


def _explanation(text: str, columns: list[str], tables: list[str]) -> str:
    if found := _NO_COLUMN.search(text):
        return f"there is no field {found['name']!r}; {_hint(found['name'], columns)}"
    if found := _NO_COLUMN_OF.search(text):
        return f"{found['table']} has no field {found['name']!r}; {_hint(found['name'], columns)}"
    if found := _NO_TABLE.search(text):
        return f"there is no field or input {found['name']!r}; {_hint(found['name'], [*columns, *tables])}"
    if found := _NO_FUNCTION.search(text):
        name = found["name"].strip("\"'")
        return f"there is no SQL function {name}(); {did_you_mean(name, functions('all'), 'see the functions of DuckDB')}"
    if found := _NO_MATCH.search(text):
        call = found["call"].replace("_LITERAL", "")
        return f"{call}: no such function takes these types; convert an argument, as in `cast(... as bigint)`"
    return text


def _hint(name: str, known: list[str]) -> str:
    return did_you_mean(name, known, f"the fields are {', '.join(known)}; put text in single quotes")
