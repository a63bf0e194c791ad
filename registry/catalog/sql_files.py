"""The registry's SQL files: tables, views, macros and comparisons."""

from __future__ import annotations

from importlib.resources import files


def sql(name: str) -> str:
    """The text of a file in `registry/sql`."""
    return files("registry").joinpath("sql", name).read_text()
