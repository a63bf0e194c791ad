"""What a query is: one statement that only reads, by DuckDB's own syntax tree, and the names in it."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import NamedTuple

import duckdb

TABLE_FUNCTIONS = frozenset(
    {
        "range",
        "generate_series",
        "repeat",
        "unnest",
        "json_each",
        "json_tree",
        "histogram",
        "histogram_values",
        "duckdb_functions",
    }
)
"""Of DuckDB's own, what may stand behind FROM. Others read files, and one runs statements from a text, past all refusals."""

_BLANK = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)"
_EXPLAIN = re.compile(
    rf"{_BLANK}*explain(?:{_BLANK}+(?:analyze|analyse)\b|{_BLANK}*\([^)]*\))?(?={_BLANK}|\W)", re.IGNORECASE | re.DOTALL
)
_NAMES = """
    select json_extract_string(tree, '$..table_name'), json_extract_string(tree, '$..cte_map.map[*].key'),
        json_extract_string(tree, '$..function.function_name'), tree ->> 'error_message'
    from (select json_serialize_sql($1::varchar) as tree)
"""


class QueryError(ValueError):
    """A query that is refused or that DuckDB could not run; the message is for the user."""


class Reading(NamedTuple):
    """A statement that only reads, and the tables that it names."""

    statement: duckdb.Statement
    tables: set[str]


def reading(con: duckdb.DuckDBPyConnection, query: str, functions: Set[str]) -> Reading:
    """The one SELECT or EXPLAIN of a query. Table functions in it are TABLE_FUNCTIONS or `functions`.

    Raises:
        QueryError: for anything else.
    """
    statements = _parsed(con, query)
    if len(statements) != 1:
        raise QueryError(f"give one SQL statement at a time; this is {len(statements)}")
    kind, select = statements[0].type.name, query
    if kind == "EXPLAIN":
        # EXPLAIN ANALYZE runs what it explains.
        select = _EXPLAIN.sub("", query, count=1)
        inner = [statement.type.name for statement in _parsed(con, select)]
        kind = "SELECT" if inner == ["SELECT"] else "EXPLAIN of other"
    if kind != "SELECT":
        hint = " Give PIVOT its values: `pivot t on a in (1, 2) using count(*)`." if kind == "MULTI" else ""
        raise QueryError(f"the registry is read-only: {kind} statements are refused, only SELECT (and EXPLAIN) may run.{hint}")
    [(tables, within, called, error)] = con.execute(_NAMES, [select]).fetchall()
    if error:
        raise QueryError(f"the registry is read-only, and of this it cannot be told whether it only reads: {error}")
    allowed = TABLE_FUNCTIONS | functions
    if refused := sorted({name.lower() for name in called} - allowed):
        raise QueryError(
            f"{refused[0]}() may not be used here: queries see the registry's views and datasets, and no files or settings. "
            f"Table functions are {', '.join(sorted(allowed))}."
        )
    return Reading(statements[0], set(tables) - set(within))


def _parsed(con: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    try:
        return con.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(str(error).strip()) from error
