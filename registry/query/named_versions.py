"""Versions by name: what a target means, and of which type its rows are. Nothing here needs Arrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from registry.errors import UnknownVersionError
from registry.lineage.targets import Version, resolve

LookUp = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Gives the rows of a query with its values."""


class NamedVersions:
    """Look-ups in the catalog's tables.

    Args:
        look_up: asks them.
        schema: where they are, with a dot; empty if they need no prefix.
    """

    def __init__(self, look_up: LookUp, schema: str = "") -> None:
        self._look_up = look_up
        self._versions, self._refs = f"{schema}versions", f"{schema}refs"

    def names(self) -> list[str]:
        """The names of all datasets, models, calibrations and reports."""
        return list(self._names)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for (name,) in self._look_up(f"select distinct name from {self._versions} order by name", ()))

    def resolve(self, target: str) -> Version:
        """The version that a target, `NAME` or `NAME@V`, means; raises UnknownVersionError if there is none."""
        return resolve(target, self._numbers, self._latest, self.names)

    def shape(self, name: str, version: int) -> tuple[str, dict[str, str]]:
        """The record type of a version, and its fields (name -> type). Raises UnknownVersionError."""
        query = f"select type, fields from {self._versions} where name = ? and version = ?"
        for kind, fields in self._look_up(query, (name, version)):
            return kind, json.loads(fields)
        raise UnknownVersionError(f"{name}@{version} was just removed")

    def has_step(self, step_key: str) -> bool:
        """Whether a version with this step key was committed."""
        return bool(self._look_up(f"select 1 from {self._versions} where step_key = ? limit 1", (step_key,)))

    def _numbers(self, name: str) -> list[int]:
        return [number for (number,) in self._look_up(f"select version from {self._versions} where name = ?", (name,))]

    def _latest(self, name: str) -> int | None:
        found = self._look_up(f"select version from {self._refs} where name = ?", (name,))
        return int(found[0][0]) if found else None
