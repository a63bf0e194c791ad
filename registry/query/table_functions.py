"""The table functions trace, upstream and downstream: SQL macros over functions that walk the lineage in Python.

A recursive query over all edges takes seconds where a walk along the version graph takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import duckdb

from registry.lineage.lineage import Lineage

NAMES = ("trace", "upstream", "downstream")

_TRACE = "struct(depth integer, name varchar, version integer, row bigint, step varchar, call_ids varchar[])[]"
_VERSIONS = 'struct(depth integer, name varchar, version integer, "type" varchar, rows bigint, step varchar, run_id varchar)[]'


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
    con.execute(files("registry").joinpath("sql", "macros.sql").read_text())
