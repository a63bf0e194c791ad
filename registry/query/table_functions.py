"""The table functions trace, upstream and downstream: SQL macros over functions that walk the lineage in Python.

A recursive query over all edges takes seconds where a walk along the version graph takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import duckdb

from registry.catalog.sql_files import sql
from registry.lineage.lineage import Lineage

CALLS = {
    "trace": "from trace('NAME@V', ROW)",
    "upstream": "from upstream('NAME@V')",
    "downstream": "from downstream('NAME@V')",
}
"""How each function is called."""

_NAME = f"({'|'.join(CALLS)})"
_WRONG_CALL = re.compile(
    rf"Macro {_NAME}\(\)|given name and argument types '_{_NAME}\(|Function \"{_NAME}\" is a table", re.IGNORECASE
)
"""DuckDB's messages about a call with other arguments, or outside of FROM."""

_TRACE = "struct(depth integer, name varchar, version integer, row bigint, step varchar, call_ids varchar[])[]"
_VERSIONS = 'struct(depth integer, name varchar, version integer, "type" varchar, rows bigint, step varchar, run_id varchar)[]'


def right_call(message: str) -> str:
    """What to write in place of the wrong call that a message of DuckDB is about; empty when it is about something else."""
    found = _WRONG_CALL.search(message)
    if not found:
        return ""
    name = found[found.lastindex or 0].lower()
    takes = "a version and the number of one of its rows" if name == "trace" else "a version"
    return f"{name} is a table function that takes {takes}: {CALLS[name]}"


def create(con: duckdb.DuckDBPyConnection, lineage: Lineage, failed: list[Exception]) -> None:
    """Register the functions on a connection.

    Args:
        failed: collects errors of the functions, because DuckDB only passes on their message.
    """

    def recorded(found: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        try:
            return found()
        except Exception as error:
            failed.append(error)
            raise

    # DuckDB reads the number of arguments from the signature.
    def trace(target: str, row: int) -> list[dict[str, Any]]:
        return recorded(lambda: lineage.trace(target, row))

    def upstream(target: str) -> list[dict[str, Any]]:
        return recorded(lambda: lineage.versions(target, "up"))

    def downstream(target: str) -> list[dict[str, Any]]:
        return recorded(lambda: lineage.versions(target, "down"))

    con.create_function("_trace", trace, ["varchar", "bigint"], _TRACE)
    con.create_function("_upstream", upstream, ["varchar"], _VERSIONS)
    con.create_function("_downstream", downstream, ["varchar"], _VERSIONS)
    con.execute(sql("macros.sql"))
