"""The public views as text, to read one of them without a session."""

from __future__ import annotations

import re
from functools import cache

from registry.catalog.sql_files import sql

_IN_PLACE = ("datasets", "versions", "runs")
"""Views that are made of the catalog's tables alone, and are small enough to be listed."""


@cache
def view_in_place(name: str) -> str:
    """The SELECT of a view, over the tables of the connection's schema; raises KeyError unless it is in _IN_PLACE."""
    found = re.search(rf"^create view {name} as\n(.*?);$", sql("views.sql"), re.MULTILINE | re.DOTALL)
    if name not in _IN_PLACE or not found:
        raise KeyError(name)
    return found[1].replace("internal.", "")
