"""Checks that a query is one read-only statement, with DuckDB's own parser, and lists the names in it."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import duckdb

from registry.errors import QueryError
from registry.storage.valid_text import INVALID, is_valid

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
"""DuckDB's table functions that are allowed after FROM. Others read files, and one runs SQL from a string, unchecked."""

_FORMATS = frozenset({"default", "text", "json", "html", "graphviz", "yaml", "mermaid"})
_ANALYZE = ("analyze", "analyse")

_NAMES = """
    select json_extract_string(tree, '$..table_name'), json_extract_string(tree, '$..cte_map.map[*].key'),
        json_extract_string(tree, '$..function.function_name'), tree ->> 'error_message'
    from (select json_serialize_sql($1::varchar) as tree)
"""


class Reading(NamedTuple):
    """A read-only statement, and the tables that it names. Exactly the text that was checked is run."""

    statement: str
    tables: set[str]


def reading(con: duckdb.DuckDBPyConnection, query: str, functions: Set[str]) -> Reading:
    """The single SELECT or EXPLAIN of a query. Its table functions must be in TABLE_FUNCTIONS or `functions`.

    Raises:
        QueryError: the query is anything else.
    """
    if not is_valid(query):
        raise QueryError(f"the query {INVALID}")
    statements = _parsed(con, query)
    if not statements:
        raise QueryError("the query is empty; write one SELECT")
    if len(statements) != 1:
        raise QueryError(f"run one SQL statement at a time; this query has {len(statements)}")
    kind, select, explain = statements[0].type.name, query, ""
    if kind == "EXPLAIN":
        # EXPLAIN ANALYZE runs what it explains.
        explain, select = _explained(query)
        inner = [statement.type.name for statement in _parsed(con, select)]
        kind = "SELECT" if inner == ["SELECT"] else "EXPLAIN of other"
    if kind != "SELECT":
        hint = " Give PIVOT its values: `pivot t on a in (1, 2) using count(*)`." if kind == "MULTI" else ""
        raise QueryError(f"the registry is read-only: {kind} statements are refused, only SELECT (and EXPLAIN) may run.{hint}")
    [(tables, within, called, refusal)] = con.execute(_NAMES, [select]).fetchall()
    if refusal:
        raise QueryError(f"the registry is read-only, and DuckDB cannot tell whether this statement only reads: {refusal}")
    allowed = TABLE_FUNCTIONS | functions
    if refused := sorted({name.lower() for name in called} - allowed):
        raise QueryError(
            f"{refused[0]}() is not allowed: queries can read the registry's views and datasets, but no files or settings. "
            f"The allowed table functions are {', '.join(sorted(allowed))}."
        )
    return Reading(f"{explain} {select}" if explain else select, set(tables) - set(within))


def _explained(query: str) -> tuple[str, str]:
    """The head of an EXPLAIN, rewritten, and the statement that it explains, from DuckDB's own tokens."""
    text = query.encode()  # token positions are bytes
    tokens = duckdb.tokenize(query)
    stops = [*(place for place, _ in tokens[1:]), len(text)]
    words = [
        (text[place:stop].decode().strip().strip('"').lower(), stop)
        for (place, kind), stop in zip(tokens, stops, strict=True)
        if kind != duckdb.token_type.comment
    ]
    options: list[str] = []
    stop = words[0][1] if words and words[0][0] == "explain" else 0
    if len(words) > 1 and words[1][0] in _ANALYZE:
        options, stop = ["analyze"], words[1][1]
    elif len(words) > 2 and words[1][0] == "(" and words[2][0] in (*_ANALYZE, "format"):
        depth = 0
        for word, stop in words[1:]:  # noqa: B007
            depth += {"(": 1, ")": -1}.get(word, 0)
            options.append("analyze" if word in _ANALYZE else f"format {word}" if word in _FORMATS else "")
            if not depth:
                break
    chosen = ", ".join(sorted(set(options) - {""}))
    return f"explain ({chosen})" if chosen else "explain", text[stop:].decode()


def _parsed(con: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    try:
        return con.extract_statements(query)
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        raise QueryError(str(error).strip()) from error
