"""Looks into rows: places for errors, and fields that are left over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.operator import Reject

LeftOut = Callable[[str], None]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class At:
    """A place in a row.

    Attributes:
        exact: the path for errors: `messages[2].content`.
        kind: the path for notes on what is left out, the same in all rows: `messages[].content`.
    """

    exact: str
    kind: str

    @classmethod
    def field(cls, name: str) -> At:
        """A field of the row."""
        return cls(name, name)

    def item(self, index: int) -> At:
        """An item of the list here."""
        return At(f"{self.exact}[{index}]", f"{self.kind}[]")

    def part(self, name: str) -> At:
        """A field of the object here."""
        return At(f"{self.exact}.{name}", f"{self.kind}.{name}")


def report_rest(value: Row, used: Collection[str], left_out: LeftOut, at: At | None = None) -> None:
    """Report the fields of an object that are not used; nulls are not reported."""
    for key, inner in value.items():
        if key not in used and inner is not None:
            left_out(f"{at.kind}.{key}" if at else str(key))


def text_at(value: Any, at: At) -> str:
    """A text; a number becomes the text that it has in the file."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(getattr(value, "text", value))
    raise Reject(f"{at.exact} is {kind_of(value)}, not text")


def kind_of(value: Any) -> str:
    """The kind of a value, in words for error messages."""
    if value is None:
        return "missing or null"
    kinds: dict[type, str] = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def is_text(value: Any) -> bool:
    """Whether it is text that is not empty."""
    return isinstance(value, str) and bool(value)


def has_none(row: Row, *names: str) -> bool:
    """Whether none of these fields has a value."""
    return all(row.get(name) is None for name in names)


def label_at(value: Any, at: At) -> bool:
    """Whether a completion is desirable: true or false, or 1 or 0."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise Reject(f"{at.exact} is {value!r:.40}, not true or false")


MEDIA = ("images", "image", "videos", "audios")
"""Fields with what texts refer to as `<image>`."""


def refuse_media(row: Row) -> None:
    """Raise Reject if the row has images, videos or sounds: without them its texts would mean something else."""
    for name in MEDIA:
        if row.get(name):
            raise Reject(f"it has {name}, and a Message holds text only; remove the row, or take out {name}")
