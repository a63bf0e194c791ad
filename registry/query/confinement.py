"""What a DuckDB connection may do once it is confined: answer queries over what it has in memory, and nothing else."""

from __future__ import annotations

import re

import duckdb

_DEFAULT_SHARE = 0.8
"""The share of the machine's memory that DuckDB takes by default."""

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) *%")

_CONFINE = (
    "set arrow_large_buffer_size=true",  # more than 2 GB of text in a column
    "set allow_persistent_secrets=false",
    "set secret_directory=''",
    "set temp_directory=''",  # no spilling: queries could read and write its folder
    "set timezone='UTC'",
    "set autoinstall_known_extensions=false",
    "set autoload_known_extensions=false",
    "set disabled_filesystems='LocalFileSystem'",
    "set enable_external_access=false",
    "set lock_configuration=true",
)


def confine(con: duckdb.DuckDBPyConnection) -> None:
    """Take away files, network, extensions and settings, for as long as the connection lives."""
    for statement in _CONFINE:
        con.execute(statement)


def memory_limit(con: duckdb.DuckDBPyConnection) -> int:
    """The memory that a connection may use, in bytes."""
    [(text,)] = con.execute("select current_setting('memory_limit')").fetchall()
    number, unit = text.split()
    return int(float(number) * 1024 ** ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB").index(unit))


def set_memory_limit(con: duckdb.DuckDBPyConnection, amount: str) -> None:
    """Limit the memory of a new connection.

    Args:
        con: still has DuckDB's own limit.
        amount: `4GB`, or `50%` of the machine, which DuckDB itself does not understand.

    Raises:
        duckdb.Error: it is not an amount.
    """
    share = _PERCENT.fullmatch(amount.strip())
    if share and 0 < float(share[1]) <= 100:
        amount = f"{int(memory_limit(con) / _DEFAULT_SHARE * float(share[1]) / 100) >> 10}KiB"
    con.execute("set memory_limit='{}'".format(amount.replace("'", "''")))
