"""Mappings by name whose look-ups say what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from engine.errors import did_you_mean
from registry.errors import QueryError

T = TypeVar("T")


class UnknownNameError(KeyError):
    """A name that a mapping does not have. The text says which it has."""

    __str__ = Exception.__str__  # KeyError would put its text in quotes


class UnknownVersionError(QueryError, UnknownNameError):
    """A dataset, model, calibration or report, or a version of one, that a registry does not have."""


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
