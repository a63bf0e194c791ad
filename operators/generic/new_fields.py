"""The rows that these operators make: the row, or some of its fields, and new fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from engine.operator import (
    Described,
    DescribedField,
    DescribedType,
    Record,
    Wrong,
    described,
    did_you_mean,
    extended,
    field_problems,
    plain,
    row_name,
)

At = tuple[str | int, ...]


def new_field(name: str, kind: Literal["str", "int", "float", "bool"], *, optional: bool = False) -> DescribedField:
    """A field with a scalar."""
    return DescribedField(name=name, type=DescribedType(kind=kind, optional=optional))


def words_field(name: str, words: Sequence[str] | Sequence[int]) -> DescribedField:
    """A field with one of a closed set of values."""
    return DescribedField(name=name, type=DescribedType(kind="words", words=tuple(words)))


def list_field(name: str, item: DescribedType) -> DescribedField:
    """A field with a list."""
    return DescribedField(name=name, type=DescribedType(kind="list", item=item))


@lru_cache(maxsize=256)
def grown(record: type[Record], new: tuple[DescribedField, ...], keep: tuple[str, ...] | None = None) -> type[Record]:
    """The type of rows with these fields of a type (None: all) and new ones; the same class for the same arguments."""
    if keep is None:
        return extended(record, new)
    kept = tuple(field for each in keep if (field := described(record).field(each)))
    names = "+".join([*(field.name for field in kept), *(field.name for field in new)])
    return Described(name=names if len(names) <= 60 else "Row", fields=(*kept, *new)).record()


def with_new(made: type[Record], row: Record, new: Mapping[str, Any]) -> Record:
    """A row of such a type: the fields that it has from the row, and the new ones.

    Raises:
        pydantic.ValidationError: a value does not fit.
    """
    fields = plain(row)
    return made.model_validate({name: fields[name] for name in made.model_fields if name in fields} | dict(new))


def clashes(
    record: type[Record],
    new: Mapping[str, At],
    keep: Sequence[str] | None = None,
    *,
    cure: str = "rename it in a step before this one",
) -> Iterator[Wrong]:
    """Names of new fields that the row has already, or that no field can have.

    Args:
        record: the type of the rows.
        new: the names, each with the place of the parameter that decides it.
        keep: the fields of the row that stay; None: all.
        cure: what to do about a name that is taken.
    """
    kept = {name.lower(): name for name in (record.model_fields if keep is None else keep)}
    seen: dict[str, str] = {}
    for name, at in new.items():
        if bad := field_problems({name: "str"}, at):
            yield Wrong(bad[0].text, at)
        elif taken := kept.get(name.lower()):
            yield Wrong(f"{row_name(record)} has a field {taken!r} already; choose another name, or {cure}", at)
        elif name.lower() in seen:
            yield Wrong(f"there are two new fields {seen[name.lower()]!r} and {name!r}; rename one of them", at)
        seen[name.lower()] = name


def unknown_fields(record: type[Record], names: Mapping[At, str], parameter: str = "") -> Iterator[Wrong]:
    """Names that are not fields of the row.

    Args:
        record: the type of the rows.
        names: the names by the place of the parameter that has them.
        parameter: its name, for the text; by default the first part of the place.
    """
    for at, name in names.items():
        if name not in record.model_fields:
            hint = did_you_mean(name, record.model_fields)
            text = f"{parameter or at[0]}: {row_name(record)} has no field {name!r}"
            yield Wrong(f"{text}; {hint}" if hint else text, at)


def type_of_field(record: type[Record], name: str) -> DescribedType | None:
    """The type of a field; None if there is no such field."""
    found = described(record).field(name)
    return found.type if found else None


def reason_field(into: str, usual: str) -> str:
    """The field for the reason of a verdict: `reason`, or `<into>_reason` where the verdict has another name than usual."""
    return "reason" if into == usual else f"{into}_reason"
