"""Templates over the fields of a row, for operators that take rows of any type: checked against the type, filled for a row.

The fields are the variables; `row` is the whole row, for names that cannot be variables: `{{ row["a name"] }}`. A null prints
nothing, a time prints as ISO 8601, and what a template may compute and print is limited (see template_engine).
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import did_you_mean
from engine.operator.context import Reject
from registry import Record
from registry.records.described import DescribedField, DescribedType, described

if TYPE_CHECKING:
    from jinja2 import nodes

_ROW = "row"
_SHOWN = 300


def template_problem(text: str, record: type[Record], *, needs_field: bool = True, without: Iterable[str] = ()) -> str | None:
    """What is wrong with a template over rows of a type; None if nothing is.

    Args:
        text: the template.
        record: the type of the rows.
        needs_field: whether it has to use a field of the row.
        without: fields that it may not use.
    """
    from engine.operator.templates.template_engine import parsed, require_no_bare, used_variables

    about = described(record)
    fields = [field.name for field in about.fields]
    try:
        template = parsed(text)
        used = used_variables(template)
        if unknown := sorted(used - {*fields, _ROW}) + sorted(_constants_of_row(template) - {*fields}):
            hint = did_you_mean(unknown[0], fields)
            return f"{row_name(record)} has no field {unknown[0]!r}; {hint}"
        require_no_bare(text, fields)
    except ValueError as error:
        return str(error)
    if hidden := sorted({*used, *_constants_of_row(template)} & set(without)):
        return f"it may not use {hidden[0]!r} here"
    if needs_field and not used:
        return f"it is the same for every row, because it uses no field of the row ({', '.join(fields)})"
    return _problem_for_an_example(text, about.fields)


def row_name(record: type[Record]) -> str:
    """A type of rows in an error: its name, or "the row" where the name only lists fields that steps have added."""
    name = described(record).name
    return "the row" if "+" in name else name


def fill(text: str, row: Record | Mapping[str, Any]) -> str:
    """A template, filled with the fields of a row.

    Raises:
        Reject: the template fails for this row; says why.
    """
    import jinja2

    from engine.operator.templates.template_engine import filled

    fields = row if isinstance(row, Mapping) else plain(row)
    try:
        return filled(text, {_ROW: fields, **fields}, of_rows=True)
    except (
        jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise Reject(f"the template fails for this row: {type(error).__name__}: {str(error)[:_SHOWN]}") from error


def plain(row: Record) -> dict[str, Any]:
    """A row's fields as plain values: records inside it as dicts, enums as their values."""
    return {name: _plain(value) for name, value in row.model_dump().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _constants_of_row(template: nodes.Template) -> set[str]:
    """The fields that a template names as `row.field` or `row["field"]`."""
    from jinja2 import nodes

    found: set[str] = set()
    for get in template.find_all(nodes.Getattr):
        if isinstance(get.node, nodes.Name) and get.node.name == _ROW and not hasattr(dict, get.attr):
            found.add(get.attr)
    for item in template.find_all(nodes.Getitem):
        if not (isinstance(item.node, nodes.Name) and item.node.name == _ROW):
            continue
        if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            found.add(item.arg.value)
    return found


class _NoFieldError(Exception):
    """A template looks up a field that the object of a row does not have."""


class _Object(dict[str, Any]):
    """An object inside an example of a row. It has all of its fields, so that others are known to be wrong."""

    def __missing__(self, name: object) -> Any:
        hint = did_you_mean(str(name), self)
        raise _NoFieldError(f"an object of the row has no field {name!r}; {hint}")


_NO_ATTRIBUTE = re.compile(
    r"'(?P<kind>str|int|float|bool|list|datetime|date|datetime\.\w+) object' has no attribute '(?P<name>.+)'"
)
_KINDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}


def _problem_for_an_example(text: str, fields: Iterable[DescribedField]) -> str | None:
    """What is wrong with a template for every row, because it is for an ordinary one: limits, and fields of objects."""
    import jinja2
    from jinja2.exceptions import SecurityError

    example = {field.name: _example(field.type) for field in fields}
    try:
        fill(text, example)
    except _NoFieldError as error:
        return str(error)
    except Reject as error:
        if isinstance(error.__cause__, jinja2.UndefinedError) and (no := _NO_ATTRIBUTE.search(str(error.__cause__))):
            return f"it looks up {no['name']!r} in {_KINDS.get(no['kind'], 'a time')}, which has no fields"
        if isinstance(error.__cause__, SecurityError):
            return str(error.__cause__)
        if isinstance(error.__cause__, RecursionError):
            return "a macro calls itself without end"
    return None


def _example(about: DescribedType) -> Any:
    if about.kind == "words":
        return about.words[0]
    if about.kind == "list":
        assert about.item is not None
        return [_example(about.item)]
    if about.kind == "struct":
        return _Object({field.name: _example(field.type) for field in about.fields})
    values = {"str": "text", "int": 1, "float": 1.0, "bool": True, "bytes": b"", "dict": {}}
    moments = {"datetime": dt.datetime(2000, 1, 1, tzinfo=dt.UTC), "date": dt.date(2000, 1, 1)}
    return {**values, **moments}[about.kind]
