"""Where a row comes from: rows read from an input, answers of models, and copies of both carry their sources.

The sources are an attribute that is not a field. Equality, dumps, validation and storage ignore it, and
`row.model_copy(update=...)` keeps it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

R = TypeVar("R", bound=BaseModel)
_SOURCES = "_sources"


class RowRef(NamedTuple):
    """Row `row` of the operator's input `port`, counted over all versions of the input concatenated."""

    port: str
    row: int


class CallRef(NamedTuple):
    """A model call, by the `call_id` that it has in SQL."""

    call_id: str


Source = RowRef | CallRef


def derived(record: R, *sources: BaseModel | RowRef) -> R:
    """Return a copy of the record, marked as made from `sources` in addition to the sources it already has.

    Args:
        record: a row to be yielded.
        sources: rows of whole inputs (`Table[...]`), answers of models (from `chat`, `samples` or `parse`), or other
            derived records. The row that a row operator is called for is always a source. If the sources include
            answers, the row is linked to those calls only; otherwise to all calls made for it so far.

    Raises:
        ValueError: a source was neither read from an input nor returned by a model.
    """
    found = list(sources_of(record))
    for source in sources:
        known = sources_of(source)
        if not known:
            raise ValueError(
                f"derived() got a {type(source).__name__} as a source, but it was neither read from an input (Table[...]) nor "
                "returned by a model. Copies keep their sources; a new record has none until derived() sets them"
            )
        found += known
    return marked(record.model_copy(), *found)


def marked(value: R, *sources: Source) -> R:
    """Set the sources of an object, replacing any it had, and return it."""
    # Records and answers are frozen, and equal ones are different rows. A private attribute of pydantic would take part in
    # equality; a dictionary keyed by the object would either mix up equal rows or lose their copies.
    object.__setattr__(value, _SOURCES, sources)
    return value


def sources_of(value: Any) -> tuple[Source, ...]:
    """The known sources of an object."""
    if isinstance(value, RowRef):
        return (value,)
    # Not by getattr: pydantic looks long for an attribute that a model does not have.
    found: tuple[Source, ...] = getattr(value, "__dict__", {}).get(_SOURCES, ())
    return found
