"""The result of a query, as data."""

from typing import Any, NamedTuple


class QueryResult(NamedTuple):
    """The result of a query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
