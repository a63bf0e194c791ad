"""Reads SQL with DuckDB's own parser; refuses SQL that reads more than its rows, or whose rows may differ in another run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Set
from functools import cache
from typing import Any

from engine.errors import did_you_mean
from engine.operator.sql.database import CHECK_SECONDS, SqlError, database, limited, plain_words

Node = dict[str, Any]
"""A node of a syntax tree, as json_serialize_sql writes it."""

_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "repeat", "unnest", "json_each", "json_tree"})

_NOW = frozenset(
    {
        "current_timestamp", "current_date", "current_time", "localtime", "localtimestamp", "current_catalog", "current_role",
        "current_schema", "current_user", "session_user", "user",
    }
)  # fmt: skip
"""Words that DuckDB reads as functions where no column has their name."""

_ALWAYS_REFUSED = frozenset({"version", "json_serialize_plan", "reservoir_quantile"})
_PURE = frozenset({"error"})
"""DuckDB calls it volatile, because its result is not a value."""

_PLACES = ("query_location", "query_location_length")
_BEFORE_SAMPLE = "the operator `sample` draws rows with a seed"


def parse(query: str) -> Node:
    """The tree of one SELECT.

    Raises:
        SqlError: the text is anything else, or DuckDB cannot parse it.
    """
    import duckdb

    from registry.storage.valid_text import INVALID, is_valid

    if not is_valid(query):
        raise SqlError(f"the SQL {INVALID}")
    con = database()
    try:
        statements = con.extract_statements(query)
    except duckdb.Error as error:
        raise SqlError(plain_words(error)) from error
    if len(statements) != 1:
        raise SqlError(f"expected one SELECT, found {len(statements)} statements")
    kind = statements[0].type.name
    if kind != "SELECT":
        hint = "; give PIVOT its values: `pivot t on a in (1, 2) using count(*)`" if kind == "MULTI" else ""
        raise SqlError(f"{kind} statements are refused; expected one SELECT{hint}")
    with limited(CHECK_SECONDS) as con:
        [(text,)] = con.execute("select json_serialize_sql($1::varchar)", [query]).fetchall()
    tree = json.loads(text)
    if tree["error"]:
        raise SqlError(f"DuckDB cannot tell whether this statement only reads: {tree['error_message']}")
    [statement] = tree["statements"]
    node: Node = statement["node"]
    return node


def written(node: Node) -> str:
    """The SQL of a tree."""
    tree = json.dumps({"error": False, "statements": [{"node": node, "named_param_map": []}]})
    with limited(CHECK_SECONDS) as con:
        [(text,)] = con.execute("select json_deserialize_sql($1::json)", [tree]).fetchall()
    return str(text)


def parse_expression(text: str) -> Node:
    """The tree of one expression over the fields of a row.

    Raises:
        SqlError: it is not one, or it looks at other rows.
    """
    if not text.strip():
        raise SqlError("the expression is empty")
    node = parse(f"select {text}\n")
    inner = parse(f"select ({text}\n)")
    found: list[Node] = node.get("select_list") or []
    plain = node["type"] == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY" and not node["modifiers"]
    if not plain or len(found) != 1 or without_places(found) != without_places(inner.get("select_list")):
        raise SqlError("expected one SQL expression over the fields of a row, such as `length(answer) > 10`")
    [expression] = found
    for each in walk(expression):
        kind, name = each.get("class"), str(each.get("function_name", "")).lower()
        if kind == "SUBQUERY":
            raise SqlError("an expression sees one row, so it has no subquery; use the operator `sql`")
        if kind == "WINDOW" or (kind == "FUNCTION" and name in functions("aggregate")):
            raise SqlError(f"{name}() looks at several rows, and an expression sees one row; use the operator `sql`")
        if kind == "STAR":
            raise SqlError("`*` stands for several fields; expected one expression")
        if kind == "FUNCTION" and name in ("unnest", "generate_subscripts", "regexp_split_to_table"):
            raise SqlError(f"{name}() makes several rows; use the operator `sql`")
    return expression


def without_places(value: Any) -> Any:
    """A tree without the places of its nodes in the text."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items() if key not in _PLACES}
    return [without_places(each) for each in value] if isinstance(value, list) else value


def walk(tree: Any) -> Iterator[Node]:
    """All nodes of a tree."""
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


@cache
def functions(kind: str) -> Set[str]:
    """Names of functions.

    Args:
        kind: `aggregate`; `refused`, those that depend on more than their arguments; or `all`.
    """
    with limited(CHECK_SECONDS) as con:
        rows = con.execute(
            "select function_name, function_type, stability, coalesce(macro_definition, '') from duckdb_functions()"
        ).fetchall()
    found = {
        "all": {name for name, *_ in rows},
        "aggregate": {name for name, of, *_ in rows if of == "aggregate"},
        "refused": {name for name, _, stability, _ in rows if stability not in (None, "CONSISTENT")} - _PURE | _ALWAYS_REFUSED,
    }[kind]
    # A macro is what its definition calls.
    words = re.compile(
        rf"\b(?:{'|'.join(map(re.escape, found | _NOW))})\b" if kind == "refused" else r"\b(\w+)\(", re.IGNORECASE
    )
    for name, of, _, text in rows:
        if of == "macro" and kind == "refused" and (words.search(text) or "SELECT" in text):
            found.add(name)
        if of == "macro" and kind == "aggregate" and any(each.group(1).lower() in found for each in words.finditer(text)):
            found.add(name)
    return frozenset(found)


def aggregates(tree: Any) -> bool:
    """Whether an expression has an aggregate function that is not a window's, and not in a subquery."""
    if isinstance(tree, list):
        return any(map(aggregates, tree))
    if not isinstance(tree, dict) or tree.get("class") == "SUBQUERY":
        return False
    if tree.get("class") == "FUNCTION" and str(tree["function_name"]).lower() in functions("aggregate"):
        return True
    return any(map(aggregates, tree.values()))


def check_repeatable(tree: Node, fields: Iterable[str]) -> None:
    """Refuse what could give other values in another run, and names that do not exist.

    Args:
        tree: a query or an expression.
        fields: names of columns that it may use.

    Raises:
        SqlError: it does.
    """
    known = {name.lower() for name in fields}
    for each in walk(tree):
        kind, name = each.get("class"), str(each.get("function_name", "")).lower()
        if kind in ("FUNCTION", "WINDOW") and (name in functions("refused") or (name == "age" and len(each["arguments"]) == 1)):
            raise SqlError(_refusal(f"{name}()"))
        if kind == "COLUMN_REF" and len(each["column_names"]) == 1:
            word = each["column_names"][0].lower()
            if word in _NOW and word not in known:
                raise SqlError(_refusal(word))
        if kind == "PARAMETER":
            raise SqlError(f"there is no value for ${each['identifier']}; write it into the SQL, or use ${{params.NAME}}")
        if isinstance(sample := each.get("sample"), dict) and not sample["repeatable"]:
            raise SqlError(
                "this sample differs each time; write `using sample reservoir(10 rows) repeatable (1)`, with a seed, or use "
                "the operator `sample`"
            )


def check_tables(tree: Node, inputs: Iterable[str]) -> None:
    """Refuse tables other than the inputs, and table functions that read something.

    Raises:
        SqlError: there are such, or an input is not used.
    """
    known = {name.lower(): name for name in inputs}
    own = {str(key["key"]).lower() for each in walk(tree) for key in (each.get("cte_map") or {}).get("map") or ()}
    unused = set(known)
    for each in walk(tree):
        if each.get("type") == "TABLE_FUNCTION":
            name = str(each["function"].get("function_name", "")).lower()
            if name not in _TABLE_FUNCTIONS:
                raise SqlError(
                    f"{name}() is not allowed: a query reads its inputs, and no files or settings; the allowed table functions "
                    f"are {', '.join(sorted(_TABLE_FUNCTIONS))}"
                )
        if each.get("type") == "SHOW_REF":
            raise SqlError("DESCRIBE, SHOW and SUMMARIZE are refused; expected one SELECT")
        if each.get("type") != "BASE_TABLE":
            continue
        name = str(each["table_name"])
        unused.discard(name.lower())
        if each.get("schema_name") or each.get("catalog_name") or each.get("at_clause"):
            shown = ".".join(filter(None, [each.get("catalog_name"), each.get("schema_name"), name]))
            raise SqlError(f"there is no table {shown}; the query reads its inputs: {', '.join(known.values())}")
        if name.lower() not in known and name.lower() not in own:
            hint = did_you_mean(name, known.values())
            raise SqlError(f"there is no input {name!r}; {hint or 'the inputs are ' + ', '.join(known.values())}")
    if unused:
        raise SqlError(f"the query does not use the input {known[min(unused)]!r}; use it, or remove it from `in`")


def _refusal(what: str) -> str:
    hint = (
        f"; {_BEFORE_SAMPLE}"
        if what in ("random()", "uuid()", "setseed()", "gen_random_uuid()", "uuidv4()", "uuidv7()")
        else ""
    )
    if what.startswith(("current_", "now", "today", "local", "age", "get_current", "transaction_t", "ago")):
        hint = "; write the date into the SQL, such as date '2026-01-31'"
    return f"{what} gives a different result each time, and the step's rows must not depend on when it runs{hint}"
