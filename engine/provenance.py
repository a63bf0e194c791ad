"""Where a row came from: rows that are read from an input remember it, and rows that are made can be told.

The memory is an attribute beside a record's fields: it takes no part in equality, dumps or storage, and a copy
(`row.model_copy(update=...)`) keeps it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from engine.llm.types.completions import Completion

R = TypeVar("R", bound=BaseModel)
_SOURCES = "_sources"


class RowRef(NamedTuple):
    """Row `row` of the input `port` of an operator (of all its versions laid end to end)."""

    port: str
    row: int


Source = RowRef | Completion


def derived(record: R, *sources: BaseModel | RowRef) -> R:
    """The record, known to be made from `sources` (and from what it is a copy of).

    Args:
        record: a row to be yielded.
        sources: rows of inputs that are given whole (`Table[...]`), answers of models (of `chat`, `samples` or `parse`),
            or other derived records. The row that an operator is called for is a source anyway. When answers are
            among them, the row is linked to these calls only; otherwise to all calls made for it.

    Raises:
        ValueError: a source was neither read from an input nor given by a model.
    """
    found = list(sources_of(record))
    for source in sources:
        known = sources_of(source)
        if not known:
            raise ValueError(
                f"a {type(source).__name__} is given as a source of a row, but it was neither read from an input (Table[...]) "
                "nor answered by a model; copies keep their source, new records have one when derived() gave it"
            )
        found += known
    return marked(record.model_copy(), *found)


def marked(value: R, *sources: Source) -> R:
    """The same object, with these sources in place of any that it had."""
    object.__setattr__(value, _SOURCES, sources)  # frozen models, too
    return value


def sources_of(value: Any) -> tuple[Source, ...]:
    """What an object is known to be made from."""
    if isinstance(value, RowRef | Completion):
        return (value,)
    found: tuple[Source, ...] = getattr(value, _SOURCES, ())
    return found
