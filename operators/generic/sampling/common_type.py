"""The type that rows of several types have in common."""

from __future__ import annotations

from collections.abc import Mapping

from engine.operator import Described, DescribedField, DescribedType, InputTypes, Record, described


class NoCommonTypeError(Exception):
    """Rows of these types cannot be mixed; names the field and both types."""


def common_type(inputs: InputTypes) -> type[Record]:
    """The type that rows of all inputs fit: the same fields; a value may be null where it may be in one of them.

    A field that only some inputs have must be one that may be null; it is null in the rows of the others.

    Raises:
        NoCommonTypeError: there is none.
    """
    records = list(inputs.values())
    first = described(records[0])
    if all(record is records[0] or described(record).fields == first.fields for record in records):
        return records[0]
    known = {name: {field.name: field for field in described(record).fields} for name, record in inputs.items()}
    names = dict.fromkeys(field for fields in known.values() for field in fields)
    return Described(name=first.name, fields=tuple(_field(name, known) for name in names)).record()


def _field(name: str, known: Mapping[str, Mapping[str, DescribedField]]) -> DescribedField:
    having = {port: fields[name] for port, fields in known.items() if name in fields}
    (port, field), *others = having.items()
    about = field.type
    for other, each in others:
        about = _joined(about, each.type, f"field {name!r} is {about} in {port!r} and {each.type} in {other!r}")
    for other in known.keys() - having.keys():
        if not all(each.type.optional for each in having.values()):
            raise NoCommonTypeError(f"field {name!r} ({field.type} in {port!r}) is missing in {other!r}")
    return DescribedField(name=name, type=about, description=field.description)


def _joined(one: DescribedType, other: DescribedType, what: str) -> DescribedType:
    optional = one.optional or other.optional
    if one.kind == other.kind == "words":
        return one.model_copy(update={"optional": optional, "words": tuple(dict.fromkeys((*one.words, *other.words)))})
    if {one.kind, other.kind} == {"words", "str"}:
        return DescribedType(kind="str", optional=optional)
    if one.kind != other.kind:
        raise NoCommonTypeError(what)
    if one.item and other.item:
        return one.model_copy(update={"optional": optional, "item": _joined(one.item, other.item, what)})
    if [field.name for field in one.fields] != [field.name for field in other.fields]:
        raise NoCommonTypeError(what)
    fields = tuple(
        field.model_copy(update={"type": _joined(field.type, each.type, what)})
        for field, each in zip(one.fields, other.fields, strict=True)
    )
    return one.model_copy(update={"optional": optional, "fields": fields})
