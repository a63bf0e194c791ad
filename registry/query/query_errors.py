"""Explains errors of DuckDB and Arrow to the author of the query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from registry.errors import CorruptError, LimitError, QueryError
from registry.query.limits import Deadline
from registry.query.table_functions import right_call


@contextmanager
def explained(deadline: Deadline, failed: Sequence[Exception]) -> Iterator[None]:
    """Turn errors of DuckDB and Arrow into ours.

    Args:
        deadline: the deadline of the query.
        failed: the exception that one of our functions raised inside the query, which is then the cause.

    Raises:
        LimitError: the query took too long, or too much memory.
        QueryError: it is wrong, or not allowed.
        CorruptError: data that it reads is damaged.
    """
    less = "Ask for less: one version, fewer columns, a narrower `where`"
    memory = f"the query needs more memory than it is allowed. {less}"
    try:
        yield
    except duckdb.InterruptException as error:
        raise LimitError(f"the query was stopped after {deadline.seconds:g} s. {less}", "time") from error
    except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError) as error:
        raise LimitError(memory, "memory") from error
    except duckdb.TransactionException as error:
        raise QueryError(f"the registry is read-only, only SELECT (and EXPLAIN) may run: {error}") from error
    except duckdb.PermissionException as error:
        raise QueryError(f"queries can read the registry's views and datasets, but no files: {error}") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if failed:
            raise failed[0] from error
        # Arrow appends a traceback.
        text = str(error).strip().partition(". Detail: Python exception")[0]
        if "Out of memory: " in text:  # Arrow's, while DuckDB reads from it
            raise LimitError(memory, "memory") from error
        if "reading the stream registered" in text:
            reason = text.partition("failed: ")[2]
            raise CorruptError(f"the query was stopped, because data cannot be read: {reason}") from error
        raise QueryError(right_call(text) or text) from error
