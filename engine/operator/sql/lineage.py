"""Rewrites a query so that its last column says from which rows of the inputs each of its rows comes.

A table of the rewritten query has the column LINEAGE with the number of its row. Every SELECT gets a last column of that name:
the sources of its row, a list of numbers. For a row of a join these are the sources of all joined rows; for a group or DISTINCT
those of all its rows. Filters, orders, limits, samples and windows keep the sources of a row as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from engine.operator.sql.syntax import Node, aggregates, walk

LINEAGE = "·row"
"""The column of the sources; no field is likely to have this name, and DuckDB would complain if one had."""

SHIFT = 44
"""A source is the input's place, shifted by this, plus the row's number."""


class UnknownLineageError(Exception):
    """The sources of a query's rows cannot be known; says why."""


class Rewritten(NamedTuple):
    """A query with the sources of its rows.

    Attributes:
        order: the names of its inputs; a source counts them in this order.
        sorted: whether the query says itself how its rows are ordered. Else the order of their sources is natural.
    """

    tree: Node
    order: tuple[str, ...]
    sorted: bool


def with_lineage(tree: Node) -> Rewritten:
    """The rewritten query.

    Raises:
        UnknownLineageError: it has a part through which rows cannot be followed.
    """
    work = _Rewriting()
    made = copy.deepcopy(tree)
    work.query(made, frozenset())
    ordered = any(each["type"] == "ORDER_MODIFIER" for each in made["modifiers"]) or made["type"] != "SELECT_NODE"
    return Rewritten(made, tuple(work.inputs), ordered)


class _Rewriting:
    def __init__(self) -> None:
        self.inputs: dict[str, int] = {}
        self._aliases = 0

    def query(self, node: Node, within: frozenset[str]) -> None:
        """Add the column to a SELECT or a UNION ALL, in place.

        Args:
            within: the names of common table expressions around it, which have the column already.
        """
        for each in node["cte_map"]["map"]:
            about = each["value"]
            self.query(about["query_node"], within)
            if about["aliases"]:
                about["aliases"].append(LINEAGE)
            within = within | {str(each["key"]).lower()}
        if node["type"] == "SET_OPERATION_NODE":
            if node["setop_type"] != "UNION":
                raise UnknownLineageError(f"it has {node['setop_type']}")
            for child in node["children"]:
                self.query(child, within)
            if not node["setop_all"]:
                _group(node)
            self._order(node, only_limited=True)
        elif node["type"] == "SELECT_NODE":
            self._select(node, within)
        else:
            raise UnknownLineageError("it is recursive" if "CTE" in node["type"] else f"it has a {node['type']}")

    def _select(self, node: Node, within: frozenset[str]) -> None:
        for part in ("select_list", "where_clause", "group_expressions", "having", "qualify", "modifiers"):
            if any(each.get("class") == "SUBQUERY" for each in walk(node[part])):
                raise UnknownLineageError("it has a subquery in an expression; a join can take its place")
        sources = list(self._from(node["from_table"], within))
        for each in walk(node["select_list"]):
            if each.get("class") != "STAR":
                continue
            if each["columns"] or each["expr"]:
                raise UnknownLineageError("it has COLUMNS(...)")
            if any(not each["relation_name"] or each["relation_name"].lower() == alias.lower() for alias in sources):
                each["exclude_list"].append(LINEAGE)
        lists = [_function("coalesce", _column(alias, LINEAGE), _function("list_value")) for alias in sources]
        if not lists:
            made = _cast(_function("list_value"))
        else:
            made = lists[0]
            for each in lists[1:]:
                made = _function("list_concat", made, each)
        distinct = [each for each in node["modifiers"] if each["type"] == "DISTINCT_MODIFIER"]
        grouped = bool(node["group_expressions"]) or node["aggregate_handling"] == "FORCE_AGGREGATES"
        grouped = grouped or aggregates([node["select_list"], node["having"], node["qualify"], _orders(node)])
        if distinct and not distinct[0]["distinct_on_targets"]:
            if grouped or any(_windows_or_rows(each) for each in walk(node["select_list"])):
                raise UnknownLineageError("it has DISTINCT with a group or a window; a subquery can take one of them")
            node["modifiers"].remove(distinct[0])
            node["aggregate_handling"] = "FORCE_AGGREGATES"  # GROUP BY ALL
            grouped = True
        if grouped:
            made = _of_group(made)
        node["select_list"].append({**made, "alias": LINEAGE})
        self._order(node, only_limited=not distinct)

    def _order(self, node: Node, *, only_limited: bool) -> None:
        """Where an order decides which rows there are, ties are in the order of the sources."""
        kinds = [each["type"] for each in node["modifiers"]]
        last = {"type": "ORDER_DEFAULT", "null_order": "ORDER_DEFAULT", "expression": _column(LINEAGE)}
        if "ORDER_MODIFIER" in kinds:
            node["modifiers"][kinds.index("ORDER_MODIFIER")]["orders"].append(last)
        elif not only_limited or any("LIMIT" in kind for kind in kinds):
            place = next((n for n, kind in enumerate(kinds) if "LIMIT" in kind), len(kinds))
            node["modifiers"].insert(place, {"type": "ORDER_MODIFIER", "orders": [last]})

    def _from(self, table: Node, within: frozenset[str]) -> Iterator[str]:
        """Give the tables after FROM the column; yields their names."""
        kind = table["type"]
        if kind == "JOIN":
            if table["ref_type"] == "NATURAL":
                raise UnknownLineageError("it has a natural join; name the fields with USING")
            if table["join_type"] in ("SEMI", "ANTI"):
                raise UnknownLineageError(f"it has a {table['join_type'].lower()} join")
            yield from self._from(table["left"], within)
            yield from self._from(table["right"], within)
        elif kind == "BASE_TABLE":
            yield self._table(table, within)
        elif kind == "SUBQUERY":
            self.query(table["subquery"]["node"], within)
            if table["column_name_alias"]:
                raise UnknownLineageError("it names the columns of a subquery after its alias; name them inside")
            table["alias"] = table["alias"] or self._alias()
            yield table["alias"]
        elif kind not in ("EMPTY", "TABLE_FUNCTION", "EXPRESSION_LIST", "EXPRESSION_LIST_REF"):
            raise UnknownLineageError(f"it has a {kind}")

    def _table(self, table: Node, within: frozenset[str]) -> str:
        name = str(table["table_name"])
        alias = str(table["alias"] or name)
        if table["column_name_alias"]:
            raise UnknownLineageError("it names the columns of a table after its alias")
        if name.lower() in within:
            return alias
        number = self.inputs.setdefault(name.lower(), len(self.inputs))
        scan = {**table, "alias": "", "sample": None}
        shifted = _function("+", _column(LINEAGE), _number(number << SHIFT))
        inner = _select([_star(), {**_function("list_value", shifted), "alias": LINEAGE}], scan)
        before = {"query_location": table["query_location"], "query_location_length": table["query_location_length"]}
        made = {
            "type": "SUBQUERY", "alias": alias, "sample": table["sample"], **before,
            "subquery": {"node": inner, "named_param_map": []}, "column_name_alias": [],
        }  # fmt: skip
        table.clear()
        table.update(made)
        return alias

    def _alias(self) -> str:
        self._aliases += 1
        return f"·{self._aliases}"


def _group(node: Node) -> None:
    """Make a UNION a GROUP BY ALL over a UNION ALL, in place."""
    inner = {**node, "setop_all": True, "modifiers": [], "cte_map": {"map": []}}
    table: Node = {
        "type": "SUBQUERY", "alias": "·", "sample": None, "subquery": {"node": inner, "named_param_map": []},
        "column_name_alias": [],
    }  # fmt: skip
    outer = _select([_star(), {**_of_group(_column("·", LINEAGE)), "alias": LINEAGE}], table)
    kept = {name: node[name] for name in ("modifiers", "cte_map")}
    node.clear()
    node.update({**outer, **kept, "aggregate_handling": "FORCE_AGGREGATES"})


def _of_group(made: Node) -> Node:
    """The sources of a group, from those of each of its rows."""
    every = _function("list_distinct", _function("flatten", _function("list", made)))
    return _function("coalesce", _function("list_sort", every), _cast(_function("list_value")))


def _star() -> Node:
    """All columns but the sources."""
    return {
        "class": "STAR", "type": "STAR", "alias": "", "relation_name": "", "exclude_list": [LINEAGE], "replace_list": [],
        "columns": False, "expr": None, "qualified_exclude_list": [], "rename_list": [],
    }  # fmt: skip


def _select(columns: list[Node], table: Node) -> Node:
    return {
        "type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": columns, "from_table": table,
        "where_clause": None, "group_expressions": [], "group_sets": [], "aggregate_handling": "STANDARD_HANDLING",
        "having": None, "sample": None, "qualify": None,
    }  # fmt: skip


def _orders(node: Node) -> Iterable[Any]:
    return [each.get("orders") for each in node["modifiers"]]


def _windows_or_rows(node: Node) -> bool:
    return node.get("class") == "WINDOW" or str(node.get("function_name", "")).lower() in ("unnest", "generate_subscripts")


def _column(*names: str) -> Node:
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": list(names)}


def _number(value: int) -> Node:
    literal = {"kind": "INTEGER", "text": str(value)}
    return {"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "literal": literal}


def _cast(child: Node) -> Node:
    kind = {**_type("list"), "children": [_type("BIGINT")]}
    return {"class": "CAST", "type": "OPERATOR_CAST", "alias": "", "child": child, "try_cast": False, "type_expr": kind}


def _type(name: str) -> Node:
    path = {"qualified_name": {"path": [name]}}
    return {
        "class": "TYPE",
        "type": "TYPE",
        "alias": "",
        "catalog": "",
        "schema": "",
        "type_name": name,
        "children": [],
        **path,
    }


def _function(name: str, *arguments: Node) -> Node:
    if name == "coalesce":
        return {"class": "OPERATOR", "type": "OPERATOR_COALESCE", "alias": "", "children": list(arguments)}
    return {
        "class": "FUNCTION", "type": "FUNCTION", "alias": "", "function_name": name, "schema": "", "filter": None,
        "order_bys": {"type": "ORDER_MODIFIER", "orders": []}, "distinct": False, "is_operator": name == "+",
        "export_state": False, "catalog": "", "arguments": [{"expression": each} for each in arguments],
        "qualified_name": {"path": [name]},
    }  # fmt: skip
