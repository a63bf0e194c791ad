"""`map` sets, renames and drops fields, in that order; its type follows from the expressions."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.pipeline.check import check
from registry import Registry
from registry.records.described import described
from tests.engine.running.scripted import Scripted
from tests.operators.generic.pipelines import order, parents, pipeline, rejects, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")


def types(text: str, output: str = "out") -> dict[str, str]:
    """The fields of the step's output, as `check` knows them."""
    Path("p.yaml").write_text(text)
    record = check(Path("p.yaml")).steps["step"].operator.outputs[output]
    return {field.name: str(field.type) for field in described(record).fields}


@ray
def test_expressions_see_the_row_as_it_came_then_fields_are_renamed_then_dropped(registry: Registry) -> None:
    write("orders", order(1, item="Tee ä", tags=["b", "a"], price=None), order(2, item="x", price=2.5))
    text = pipeline(
        "map",
        set={
            "item": "upper(item)",
            "label": "item || '/' || id",
            "first": "coalesce(tags[1], 'none')",
            "buyer": "{name: item, old: buyer.age is not null}",
        },
        rename={"label": "name", "urgency": "how"},
        drop=["price", "how"],
    )
    run_ok(text, registry)
    assert types(text) == {
        "id": "int",
        "item": "str",
        "tags": "list[str]",
        "buyer": "{name: str, old: bool}",
        "name": "str",
        "first": "str",
    }
    assert rows_of(registry) == [
        (1, "TEE Ä", ["b", "a"], {"name": "Tee ä", "old": False}, "Tee ä/1", "b"),
        (2, "X", [], {"name": "x", "old": False}, "x/2", "none"),
    ]
    assert parents(registry) == [(0, "orders", 0), (1, "orders", 1)]


@ray
def test_two_fields_can_change_places(registry: Registry) -> None:
    rows = {"a": "str", "b": "str"}
    write("orders", {"a": "1", "b": "2"})
    run_ok(pipeline("map", types={"orders": rows}, set={"a": "b", "b": "a"}), registry)
    assert rows_of(registry) == [("2", "1")]
    run_ok(pipeline("map", types={"orders": rows}, rename={"a": "b", "b": "a"}), registry)
    assert rows_of(registry, columns="a, b") == [("2", "1")]


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("urgency", "low | high"),
        ("tags", "list[str]"),
        ("buyer", "{name: str, age: int?}"),
        ("buyer.name", "str"),
        ("buyer.age", "int?"),
        ("price", "float?"),
        ("price * 2", "float?"),
        ("id + 1", "int"),
        ("id / 2", "float"),
        ("1", "int"),
        ("'x'", "str"),
        ("cast(item as int)", "int"),
        ("try_cast(item as int)", "int?"),
        ("coalesce(price, 0.0)", "float"),
        ("length(item) > 3 and urgency = 'low'", "bool"),
        ("price > 3", "bool?"),
        ("case when id > 1 then 'a' else item end", "str"),
        ("case when id > 1 then 'a' end", "str?"),
        ("string_split(item, ' ')", "list[str]"),
        ("[item, urgency]", "list[str]"),
        ("list_filter(tags, lambda t: t <> '')", "list[str?]?"),
        ("date '2026-01-31'", "date"),
        ("timestamp '2026-01-31 12:00:00'", "datetime"),
        ("encode(item)", "bytes?"),
        ("json_extract_string(item, '$.a')", "str?"),
        ("md5(item)", "str"),
    ],
)
def test_types_follow_from_the_expressions(registry: Registry, expression: str, kind: str) -> None:
    write("orders", order(1))
    assert types(pipeline("map", set={"new": expression}))["new"] == kind


@ray
def test_expressions_typed_as_never_null_are_never_null(registry: Registry) -> None:
    """The values of every expression above, on rows with nulls and empty values, fit the type that was found."""
    cases: list[str] = [case[0] for case in test_types_follow_from_the_expressions.pytestmark[0].args[1]]  # type: ignore[attr-defined]
    write("orders", order(1, item="7"), order(2**62, item="8", tags=["", "ü"], price=None, urgency="high"))
    run_ok(pipeline("map", set={f"new{n}": case for n, case in enumerate(cases)}), registry)
    assert len(rows_of(registry)) == 2


@ray
def test_a_row_whose_value_fails_is_rejected_with_the_field_and_the_reason(registry: Registry) -> None:
    write("orders", order(1, item="12"), order(2, item="tea"), order(2**63 - 1, item="3"), order(4, item="4"))
    run_ok(pipeline("map", set={"number": "cast(item as int)", "next": "id + 1"}), registry)
    assert rows_of(registry, columns="id, number, next") == [(1, 12, 2), (4, 4, 5)]
    assert parents(registry) == [(0, "orders", 0), (1, "orders", 3)]
    assert rejects(registry) == [
        (1, "number: Could not convert string 'tea' to INT32 when casting from source column item"),
        (2, "next: Overflow in addition of INT64 (9223372036854775807 + 1)!"),
    ]


@ray
def test_numbers_beyond_64_bits_are_rejected(registry: Registry) -> None:
    write("orders", order(1), order(2**62))
    run_ok(pipeline("map", set={"huge": "cast(id as hugeint) * 4"}), registry)
    assert rows_of(registry, columns="huge") == [(4,)]
    assert "out of range" in rejects(registry)[0][1]


@ray
def test_empty_inputs(registry: Registry) -> None:
    write("orders")
    run_ok(pipeline("map", set={"n": "id + 1"}), registry)
    assert rows_of(registry) == []


@pytest.mark.parametrize(
    ("params", "at", "said"),
    [
        ({"set": {"total": "prise * 2"}}, '"prise', "there is no field 'prise'; did you mean 'price'?"),
        (
            {"set": {"total": "id * 1.5"}},
            '"id * 1.5',
            "its type is DECIMAL(21,1), which a field cannot have; write cast(... as double)",
        ),
        ({"set": {"total": "interval 1 day"}}, '"interval', "its type is INTERVAL"),
        ({"set": {"total": "map {'a': 1}"}}, '"map {', "its type is MAP"),
        ({"set": {"total": "null"}}, '"null"', "write cast(null as varchar)"),
        ({"set": {"row": "1"}}, '"1"', "set: row: this name is reserved for the row number"),
        ({"set": {"ITEM": "item"}}, '"item"', "SQL cannot distinguish it from 'item'"),
        ({"set": {"model_dump": "item"}}, '"item"', "the name 'model_dump' is reserved"),
        ({"set": {"_x": "item"}}, '"item"', "the name of a field starts with a letter"),
        ({"set": {"x": "unnest(tags)"}}, '"unnest', "makes several rows"),
        ({"set": {"x": "uuid()"}}, '"uuid', "uuid() gives a different result each time"),
        ({"rename": {"pryce": "cost"}}, '"cost"', "there is no field 'pryce'; did you mean 'price'?"),
        ({"rename": {"price": "item"}}, '"item"\n', "there is a field 'item' already; to replace it, write set: {item: price}"),
        ({"rename": {"price": "row"}}, '"row"', "reserved"),
        ({"drop": ["cost"]}, '"cost"', "there is no field 'cost'"),
        ({"drop": ["id", "item", "price", "urgency", "tags", "buyer"]}, "[\n", "no field is left"),
        ({}, "", "nothing to do: give set, rename or drop"),
    ],
)
def test_mistakes_are_found_with_their_place(registry: Registry, params: dict[str, object], at: str, said: str) -> None:
    write("orders", order(1))
    text = pipeline("map", **params)
    found = wrong(text)
    assert said in found
    if at.startswith('"'):
        line = text[: text.rindex(at)].count("\n") + 1
        assert f"p.yaml:{line}:" in found


def test_partitions_and_their_order_change_nothing(registry: Registry) -> None:
    write("orders", *(order(n, item=str(n) if n % 500 else "x") for n in range(3000)))
    text = pipeline("map", set={"n": "cast(item as int) % 10"}, drop=["buyer", "tags"])
    run_ok(text, registry, cluster=Scripted(lambda waiting: waiting - 1))
    backwards, dropped = rows_of(registry), rejects(registry)
    run_ok(text, registry, force="step", cluster=Scripted(lambda waiting: 0))
    assert rows_of(registry) == backwards
    assert len(backwards) == 2994
    assert [row for row, _ in dropped] == [0, 500, 1000, 1500, 2000, 2500]
