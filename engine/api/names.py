"""Mappings by name whose errors list the names that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from engine.errors import did_you_mean

T = TypeVar("T")


class UnknownNameError(KeyError):
    """A mapping does not have this name. The message lists the names that exist."""

    __str__ = Exception.__str__  # KeyError would put its text in quotes


class Named(Mapping[str, T]):
    """A frozen mapping from names.

    Args:
        what: the kind of thing, for errors: `output`.
        items: the things by name.
    """

    def __init__(self, what: str, items: Mapping[str, T]) -> None:
        self._what = what
        self._items = dict(items)

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            hint = did_you_mean(str(name), self._items, similarity=0.5) or f"there are {len(self._items)}"
            raise UnknownNameError(f"there is no {self._what} {name!r}; {hint if self._items else 'there are none'}")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)
