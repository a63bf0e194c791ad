"""Generators: sources of records that are programs, named in YAML as `generator: NAME/TASK`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Generator:
    """A source of records made by a program, `generator: NAME/TASK` in YAML.

    Args:
        name: the name of the generator.
        function: (task, limit, seed, settings) -> rows as dicts. It must yield the same rows for the same arguments.
        check: (task, settings) -> problems as texts; called before anything starts.
        identity: other values that determine the rows, such as the version of a package.
    """

    name: str
    function: Callable[[str, int, int, Mapping[str, Any]], Iterator[dict[str, Any]]]
    check: Callable[[str, Mapping[str, Any]], list[str]]
    identity: Callable[[], str]
