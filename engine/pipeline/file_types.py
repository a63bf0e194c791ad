"""The record types that a pipeline file describes under `types:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import EngineError, did_you_mean
from engine.operator.type_expressions import FieldError, TypeExpressionError, parse_type, read_field
from engine.spec.yaml_source import Loc, YamlSource
from registry import Record
from registry.errors import UnsupportedTypeError
from registry.records.described import Described, DescribedField, DescribedType, described, field_name_problem


def file_types(
    types: Mapping[str, Mapping[str, Any]], source: YamlSource, installed: Mapping[str, type[Record]]
) -> dict[str, type[Record]]:
    """The classes by name. Problems are added to the source; a type that has some is left out.

    Args:
        types: the section of the file.
        source: the file.
        installed: record types of packages; those of the file come first.
    """
    reader = _Reader(types, source, installed)
    return {name: record for name in types if (record := reader.record(name))}


class _BrokenTypeError(Exception):
    """A type refers to one whose problem is reported already."""


class _Reader:
    def __init__(
        self, types: Mapping[str, Mapping[str, Any]], source: YamlSource, installed: Mapping[str, type[Record]]
    ) -> None:
        self._types = types
        self._source = source
        self._installed = installed
        self._made: dict[str, Described | None] = {}
        self._within: list[str] = []

    def record(self, name: str) -> type[Record] | None:
        about = self._described(name)
        if about is None:
            return None
        try:
            return about.record()
        except UnsupportedTypeError as error:
            self._source.problem(str(error), ("types", name))
            return None

    def _described(self, name: str) -> Described | None:
        """A type of the file; None if something is wrong with it, which is reported once."""
        if name not in self._made:
            self._within.append(name)
            before = len(self._source.problems)
            try:
                fields = self._fields(name, self._types[name], ("types", name))
                self._made[name] = Described(name=name, fields=fields) if len(self._source.problems) == before else None
            except _BrokenTypeError:
                self._made[name] = None
            self._within.pop()
        return self._made[name]

    def _fields(self, name: str, given: Mapping[str, Any], loc: Loc) -> tuple[DescribedField, ...]:
        made: dict[str, DescribedField] = {}
        broken = False
        if "extends" in given:
            made |= {field.name: field for field in self._extended(name, given["extends"], (*loc, "extends"))}
        for field, value in given.items():
            if field == "extends":
                continue
            if problem := field_name_problem(field, made):
                self._source.problem(f"field {field!r} of {name}: {problem}", (*loc, field), key=True)
                continue
            try:
                if about := self._field(f"{name}.{field}", field, value, (*loc, field)):
                    made[field] = about
            except _BrokenTypeError:
                broken = True
        if broken:
            raise _BrokenTypeError
        if not given:
            self._source.problem(f"type {name} has no fields", loc)
        return tuple(made.values())

    def _extended(self, name: str, base: Any, loc: Loc) -> tuple[DescribedField, ...]:
        if not isinstance(base, str):
            self._source.problem("extends: give the name of one type", loc)
            return ()
        found = self._named(base, loc)
        if found is None:
            self._source.problem(f"there is no type {base!r}", loc, did_you_mean(base, self._known()))
            return ()
        return found.fields

    def _field(self, where: str, name: str, value: Any, loc: Loc) -> DescribedField | None:
        try:
            field = read_field(value)
        except FieldError as error:
            self._source.problem(f"{where}: {error}", (*loc, *error.at), error.hint)
            return None
        loc = (*loc, *field.at)
        if not isinstance(field.type, str):
            about = DescribedType(kind="struct", fields=self._fields(where, field.type, loc))
        else:
            try:
                about = parse_type(field.type, lambda other: self._struct(other, loc), self._known)
            except TypeExpressionError as error:
                self._source.problem(f"{where}: {error}", loc)
                return None
        return DescribedField(name=name, type=about, description=field.description)

    def _struct(self, name: str, loc: Loc) -> DescribedType | None:
        found = self._named(name, loc)
        return DescribedType(kind="struct", fields=found.fields) if found else None

    def _named(self, name: str, loc: Loc) -> Described | None:
        """A type that another one refers to; None if there is none of that name."""
        if name in self._within:
            self._source.problem(f"type {name} contains itself; rows have a fixed depth", loc)
            raise _BrokenTypeError
        if name in self._types:
            if found := self._described(name):
                return found
            raise _BrokenTypeError
        try:
            installed = self._installed.get(name)
        except EngineError as error:
            self._source.problem(str(error), loc)
            raise _BrokenTypeError from error
        return described(installed) if installed else None

    def _known(self) -> list[str]:
        return [*self._types, *self._installed]
