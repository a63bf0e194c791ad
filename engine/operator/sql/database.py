"""A confined DuckDB in memory, for the SQL of pipelines."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, StepError

if TYPE_CHECKING:
    import duckdb

CHECK_SECONDS = 20.0
"""The time that binding may take."""

RUN_SECONDS = 3600.0
"""The time that one query may take."""

_MEMORY = "50%"
"""The share of the machine's memory that DuckDB may use."""

_KIND = re.compile(r"^[A-Z][A-Za-z ]{2,30} Error: ")
"""DuckDB's class of an error, in front of the text."""


class SqlError(EngineError):
    """SQL of a pipeline is wrong: the text says what, and what to write."""


class RowError(Exception):
    """DuckDB could not compute the values of some row; has its reason."""


_databases = threading.local()


def database() -> duckdb.DuckDBPyConnection:
    """The confined database of this thread; opening one takes longer than most queries.

    It has one thread and keeps the order of rows, so results do not depend on the machine.
    """
    found = getattr(_databases, "con", None)
    if found is None:
        import duckdb

        from registry.query.confinement import confine, set_memory_limit

        found = duckdb.connect(":memory:")
        found.execute("set threads=1")
        found.execute("set preserve_insertion_order=true")
        set_memory_limit(found, _MEMORY)
        found.execute("set python_enable_replacements=false")
        confine(found)
        _databases.con = found
    return found


@contextmanager
def limited(seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """The database in a transaction that cannot write, for a limited time. Raises as `timed` does."""
    with timed(seconds) as con:
        con.execute("begin transaction read only")
        try:
            yield con
        finally:
            con.execute("rollback")


@contextmanager
def timed(seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """The database for a limited time.

    Raises:
        SqlError: DuckDB does not understand the SQL.
        RowError: it cannot compute a value.
        StepError: a query takes too long, or needs too much memory.
    """
    import duckdb

    from registry.query.limits import Deadline

    con = database()
    try:
        with Deadline(seconds, con.interrupt).running():
            yield con
    except duckdb.InterruptException as error:
        raise StepError(f"the SQL was stopped after {seconds:g} s; simplify it, or give it fewer rows") from error
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise StepError("the SQL needs more than half of the machine's memory; simplify it, or give it fewer rows") from error
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.SyntaxException) as error:
        raise SqlError(plain_words(error)) from error
    except duckdb.PermissionException as error:
        raise SqlError(f"SQL in a pipeline reads its input rows, and no files: {plain_words(error)}") from error
    except duckdb.Error as error:
        raise RowError(plain_words(error)) from error


def plain_words(error: Any) -> str:
    """DuckDB's message in one line, without its class and without the quoted query."""
    text = str(error).partition("\nLINE ")[0].partition("\n\nLINE ")[0]
    text = _KIND.sub("", text)
    text = text.partition("\n\tCandidate functions:")[0].partition("\nCandidate bindings:")[0]
    return " ".join(text.split())
