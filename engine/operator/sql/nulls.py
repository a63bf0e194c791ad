"""Which values of an expression can be null, as far as its form proves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.operator.sql.syntax import Node
from registry.records.described import DescribedField, DescribedType

Column = Callable[[list[str]], DescribedType | None]
"""The type of a column, by the parts of its name; None if it is not known."""

_STRICT = """
    + - * / // % ** ^ || ~~ !~~ ~~* !~~* ~ !~ & | << >> add subtract multiply divide abs ascii ceil ceiling chr
    concat_ws day dayofweek dayofyear ends_with epoch exp floor format greatest hour jaccard jaro_similarity
    jaro_winkler_similarity lcase least left len length levenshtein list_concat list_distinct list_reverse
    list_reverse_sort list_sort lower lpad ltrim md5 millisecond minute mod month pow power prefix printf quarter
    regexp_escape regexp_extract regexp_full_match regexp_matches regexp_replace repeat replace reverse right round
    rpad rtrim second sha1 sha256 sign split_part sqrt starts_with str_split strftime string_split string_split_regex
    strip_accents strlen strpos strptime substr substring suffix translate trim trunc ucase upper week year date_trunc
    datetrunc to_base64 hex instr ord
""".split()  # noqa: SIM905  (a list would be a page long)
"""Functions whose value is null only if an argument is: instead of null, they raise errors."""

_NEVER = """
    count count_star concat row_number rank dense_rank ntile percent_rank cume_dist list_value struct_pack typeof
""".split()  # noqa: SIM905  (a list would be a page long)
_TEXTS = frozenset(["string_split", "str_split", "string_split_regex"])
_LISTS = frozenset(("list", "array_agg"))
_OF_GROUPS = """
    any_value arg_max arg_min avg bool_and bool_or first last list array_agg max mean median min mode string_agg sum
""".split()  # noqa: SIM905  (a list would be a page long)
"""Aggregates that are null only for a group without a value."""


def proved(node: Node, found: DescribedType, column: Column, *, grouped: bool = False) -> DescribedType:
    """The type of an expression, without the nulls that it cannot have; columns that are passed through keep their type.

    Args:
        node: the expression.
        found: the type of the expression if every value may be null.
        column: the types of columns.
        grouped: whether aggregates are over groups, each of which has a row.
    """
    return _Proof(column, grouped).proved(node, found)


def can_be_null(node: Node, column: Column, *, grouped: bool = False) -> bool:
    """Whether an expression may be null; True where that is not known. Arguments as for `proved`."""
    return _Proof(column, grouped).nullable(node)


def unknown(*, optional: bool) -> DescribedType:
    """Stands for the type of a column of which only that is known."""
    return DescribedType(kind="struct", optional=optional)


class _Proof:
    def __init__(self, column: Column, grouped: bool) -> None:
        self._column = column
        self._grouped = grouped

    def proved(self, node: Node, found: DescribedType) -> DescribedType:
        kind = node.get("class")
        if kind == "COLUMN_REF":
            known = self._column(node["column_names"])
            if known == unknown(optional=False):
                return _never(found)
            return known if known and _same(known, found) else found
        if kind == "FUNCTION" and found.kind == "list" and found.item and not node.get("filter"):
            name = str(node["function_name"]).lower()
            if name in _TEXTS:
                return found.model_copy(update={"optional": self.nullable(node), "item": _never(found.item)})
            if name in _LISTS:
                [item] = [self.proved(each["expression"], found.item) for each in node["arguments"][:1]]
                return found.model_copy(update={"optional": not self._grouped, "item": item})
            if name == "list_value":
                items = [self.proved(each["expression"], found.item) for each in node["arguments"]]
                item = found.item if any(each.optional for each in items) else _never(found.item)
                if all(each == items[0] for each in items[1:]):
                    item = items[0]  # else each may have its nulls in other places
                return found.model_copy(update={"optional": False, "item": item})
        if kind == "FUNCTION" and found.kind == "struct" and str(node["function_name"]).lower() == "struct_pack":
            parts = {each.get("name"): each["expression"] for each in node["arguments"]}
            fields = tuple(
                DescribedField(
                    name=field.name, type=self.proved(parts[field.name], field.type) if field.name in parts else field.type
                )
                for field in found.fields
            )
            return found.model_copy(update={"optional": False, "fields": fields})
        return found if self.nullable(node) else _never(found)

    def nullable(self, node: Any) -> bool:
        """Whether an expression may be null; True where that is not known."""
        kind, of = node.get("class"), node.get("type")
        if kind == "CONSTANT":
            return "NULL" in str(node["literal"]["kind"])
        if kind == "COLUMN_REF":
            known = self._column(node["column_names"])
            return known is None or known.optional
        if kind == "CAST":
            return bool(node["try_cast"]) or _json(node) or self.nullable(node["child"])
        if kind in ("COMPARISON", "CONJUNCTION", "BETWEEN"):
            if of in ("COMPARE_DISTINCT_FROM", "COMPARE_NOT_DISTINCT_FROM"):
                return False
            parts = [
                *node.get("children", ()),
                *(node[side] for side in ("left", "right", "input", "lower", "upper") if side in node),
            ]
            return any(self.nullable(each) for each in parts)
        if kind == "OPERATOR":
            children = node["children"]
            if of in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
                return False
            if of == "OPERATOR_COALESCE":
                return all(self.nullable(each) for each in children)
            return of not in ("OPERATOR_NOT", "COMPARE_IN", "COMPARE_NOT_IN") or any(self.nullable(each) for each in children)
        if kind == "CASE":
            return any(self.nullable(each["then_expr"]) for each in node["case_checks"]) or self.nullable(node["else_expr"])
        if kind in ("FUNCTION", "WINDOW"):
            name = str(node["function_name"]).lower()
            return name not in _NEVER and (
                kind == "WINDOW"
                or not self._strict(node, name)
                or any(self.nullable(each["expression"]) for each in node["arguments"])
            )
        return True

    def _strict(self, node: Node, name: str) -> bool:
        return name in _STRICT or (self._grouped and name in _OF_GROUPS and not node.get("filter"))


def _never(about: DescribedType) -> DescribedType:
    return about.model_copy(update={"optional": False})


def _same(known: DescribedType, found: DescribedType) -> bool:
    """Whether DuckDB's type is that of the column."""
    from engine.operator.sql.duck_types import duck_type

    return duck_type(known) == duck_type(found)


def _json(node: Node) -> bool:
    return "JSON" in str(node.get("type_expr", {}).get("type_name", "")).upper()
