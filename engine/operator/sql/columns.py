"""Which columns of a query are fields of its inputs, passed through: these keep their types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.operator.sql.nulls import can_be_null, proved, unknown
from engine.operator.sql.syntax import Node, aggregates
from registry.records.described import DescribedField, DescribedType

Fields = tuple[DescribedField, ...]

_UNKNOWN = "·"
"""Stands for the columns of a table function, whose names are not known."""


class _NotKnownError(Exception):
    """A query is too complex to follow its columns."""


@dataclass(frozen=True)
class Scope:
    """The tables that an expression sees: (alias, fields), in order."""

    tables: tuple[tuple[str, Fields], ...]

    @classmethod
    def of(cls, tables: Mapping[str, Fields]) -> Scope:
        """Tables by name."""
        return cls(tuple(tables.items()))

    def column(self, parts: list[str]) -> DescribedType | None:
        """The type of a column, by the parts of its name; None if that is not known."""
        lower = [part.lower() for part in parts]
        found = [field for _, fields in self.tables for field in fields if field.name.lower() == lower[0]]
        rest = lower[1:]
        if len(lower) > 1 and (own := [fields for alias, fields in self.tables if alias.lower() == lower[0]]):
            if found or len(own) > 1:
                return None
            found, rest = [field for field in own[0] if field.name.lower() == lower[1]], lower[2:]
        if len(found) != 1:
            return None
        about = found[0].type
        for part in rest:
            inner = next((field.type for field in about.fields if field.name.lower() == part), None)
            if inner is None:
                return None
            about = inner.or_null() if about.optional else inner
        return about

    def without(self, names: list[str]) -> Scope:
        """The same without some columns."""
        left_out = {name.lower() for name in names}
        return Scope(
            tuple((alias, tuple(each for each in fields if each.name.lower() not in left_out)) for alias, fields in self.tables)
        )

    def nullable(self) -> Scope:
        """The same after an outer join that may leave these tables out."""
        return Scope(tuple((alias, _or_null(fields)) for alias, fields in self.tables))


def query_columns(tree: Node, inputs: Mapping[str, Fields], bound: Fields) -> Fields:
    """The fields of a query's rows with the types that they are known to have.

    Args:
        tree: the parsed query.
        inputs: the fields of its tables.
        bound: the fields as DuckDB binds them, where every value may be null.
    """
    try:
        return _columns(tree, {name.lower(): fields for name, fields in inputs.items()}, bound)
    except _NotKnownError:
        return bound


def _columns(node: Node, tables: Mapping[str, Fields], bound: Fields | None) -> Fields:
    """The columns of a query or subquery; `bound` is known of the outermost."""
    seen = dict(tables)
    for each in node["cte_map"]["map"]:
        about = each["value"]
        if about["aliases"]:
            raise _NotKnownError
        seen[str(each["key"]).lower()] = _columns(about["query_node"], seen, None)
    if node["type"] == "SET_OPERATION_NODE" and node["setop_type"] == "UNION" and bound is not None:
        parts = [_columns(child, seen, bound) for child in node["children"]]
        return tuple(map(_either, bound, *parts))
    if node["type"] != "SELECT_NODE":
        raise _NotKnownError
    scope = _scope(node["from_table"], seen)
    grouped = (bool(node["group_expressions"]) and len(node["group_sets"]) == 1) or (
        node["aggregate_handling"] == "FORCE_AGGREGATES" and not all(map(aggregates, node["select_list"]))
    )
    if len(node["group_sets"]) > 1:
        scope = scope.nullable()
    made: list[DescribedField | None] = []
    items: list[tuple[str, Any]] = []
    for item in node["select_list"]:
        if item["class"] == "STAR":
            for field in _star(item, scope, node["from_table"]):
                made.append(field)
                items.append((field.name, None))
        else:
            made.append(None)
            name = item["alias"] or (item["column_names"][-1] if item["class"] == "COLUMN_REF" else "")
            items.append((name, item))
    if bound is None:
        return tuple(field or _passed(name, item, scope, grouped) for field, (name, item) in zip(made, items, strict=True))
    if len(items) != len(bound):
        raise _NotKnownError
    return tuple(
        _typed(field, name, item, found, scope, grouped) for field, (name, item), found in zip(made, items, bound, strict=True)
    )


def _typed(
    field: DescribedField | None, name: str, item: Any, found: DescribedField, scope: Scope, grouped: bool
) -> DescribedField:
    from engine.operator.sql.duck_types import duck_type

    if item is None:
        if (
            field
            and field.name.lower() == found.name.lower()
            and field.type.model_copy(update={"optional": True}) == unknown(optional=True)
        ):
            kept = found.type.model_copy(update={"optional": field.type.optional})
            return found.model_copy(update={"type": kept})
        if field is None or field.name.lower() != found.name.lower() or duck_type(field.type) != duck_type(found.type):
            raise _NotKnownError
        return field.model_copy(update={"name": found.name})
    return found.model_copy(update={"type": proved(item, found.type, scope.column, grouped=grouped)})


def _passed(name: str, item: Any, scope: Scope, grouped: bool) -> DescribedField:
    """A column of a subquery. Its type is only known if it is passed through."""
    about = scope.column(item["column_names"]) if item["class"] == "COLUMN_REF" else None
    if about is None or not name:
        return DescribedField(name=name or "?", type=unknown(optional=can_be_null(item, scope.column, grouped=grouped)))
    return DescribedField(name=name, type=about)


def _scope(table: Node, tables: Mapping[str, Fields]) -> Scope:
    kind, alias = table["type"], table["alias"]
    if kind == "EMPTY":
        return Scope(())
    if kind == "BASE_TABLE" and not table["column_name_alias"]:
        name = str(table["table_name"])
        if name.lower() not in tables:
            raise _NotKnownError
        return Scope(((alias or name, tables[name.lower()]),))
    if kind == "SUBQUERY" and not table["column_name_alias"]:
        return Scope(((alias, _columns(table["subquery"]["node"], tables, None)),))
    if (
        kind == "JOIN"
        and table["ref_type"] in ("REGULAR", "CROSS")
        and table["join_type"] in ("INNER", "LEFT", "RIGHT", "OUTER")
    ):
        left, right = _scope(table["left"], tables), _scope(table["right"], tables)
        if table["using_columns"]:
            if table["join_type"] not in ("INNER", "LEFT"):
                raise _NotKnownError
            right = right.without(table["using_columns"])  # the field is that of the left side
        if table["join_type"] in ("RIGHT", "OUTER"):
            left = left.nullable()
        if table["join_type"] in ("LEFT", "OUTER"):
            right = right.nullable()
        return Scope((*left.tables, *right.tables))
    if kind == "TABLE_FUNCTION" and alias:
        names = table["column_name_alias"] or [_UNKNOWN]
        return Scope(((alias, tuple(DescribedField(name=name, type=unknown(optional=True)) for name in names)),))
    raise _NotKnownError


def _star(item: Node, scope: Scope, table: Node) -> list[DescribedField]:
    if item["columns"] or item["expr"] or item["replace_list"] or item["qualified_exclude_list"] or item["rename_list"]:
        raise _NotKnownError
    left_out = {str(name).lower() for name in item["exclude_list"]}
    of = item["relation_name"].lower()
    return [
        field
        for alias, fields in scope.tables
        if not of or alias.lower() == of
        for field in fields
        if field.name.lower() not in left_out
    ]


def _either(bound: DescribedField, *parts: DescribedField) -> DescribedField:
    """A column of a union. It has the type of all parts if they agree, or else that of `bound`, nullable if a part is."""
    types = {part.type for part in parts}
    if len(types) == 1:
        return bound.model_copy(update={"type": types.pop()})
    optional = any(about.optional for about in types)
    return bound.model_copy(update={"type": bound.type.model_copy(update={"optional": optional})})


def _or_null(fields: Sequence[DescribedField]) -> Fields:
    return tuple(field.model_copy(update={"type": field.type.or_null()}) for field in fields)
