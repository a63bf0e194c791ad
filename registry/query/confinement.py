"""What a DuckDB connection may do once it is confined: answer queries over what it has in memory, and nothing else."""

from __future__ import annotations

import duckdb

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
