"""`filter` keeps the rows for which an SQL expression is true, and rejects those for which it fails."""

from __future__ import annotations

import pytest

from registry import Registry
from tests.engine.running.scripted import Scripted
from tests.operators.generic.pipelines import metrics, order, parents, pipeline, place, rejects, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")


@ray
def test_true_rows_are_kept_and_all_others_dropped_with_their_lineage(registry: Registry) -> None:
    write(
        "orders",
        order(1),
        order(2, price=None),
        order(3, price=9),
        order(4, price=9, tags=["ä", "b"], buyer={"name": "Ça", "age": 7}),
    )
    run_ok(pipeline("filter", where="price > 5"), registry)
    assert rows_of(registry, "kept") == [
        (3, "tea", 9.0, "low", [], {"name": "Ann", "age": None}),
        (4, "tea", 9.0, "low", ["ä", "b"], {"name": "Ça", "age": 7}),
    ]
    assert rows_of(registry, "dropped", "id") == [(1,), (2,)]  # null is not true
    assert parents(registry, "kept") == [(0, "orders", 2), (1, "orders", 3)]
    assert parents(registry, "dropped") == [(0, "orders", 0), (1, "orders", 1)]
    assert metrics(registry) == {"dropped": 2, "kept": 2}


@ray
@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("id = 9223372036854775807", [9223372036854775807]),
        ("item = 'naïve 日本'", [2]),
        ("buyer.age is null", [1, 2]),
        ("len(tags) > 0 and tags[1] = 'x'", [2]),
        ("urgency = 'high' -- a comment", [2]),
        ("true or price is null", [1, 2, 9223372036854775807]),
    ],
)
def test_expressions_see_all_fields(registry: Registry, where: str, kept: list[int]) -> None:
    write(
        "orders",
        order(1),
        order(2, item="naïve 日本", tags=["x"], urgency="high"),
        order(2**63 - 1, buyer={"name": "B", "age": 3}),
    )
    run_ok(pipeline("filter", where=where), registry)
    assert rows_of(registry, "kept", "id") == [(id,) for id in kept]


@ray
def test_a_row_for_which_the_expression_fails_is_rejected_alone(registry: Registry) -> None:
    write("orders", *(order(n, item="x" if n in (3, 40, 41) else str(n)) for n in range(100)))
    run_ok(pipeline("filter", where="cast(item as int) < 50"), registry)
    assert [id for (id,) in rows_of(registry, "kept", "id")] == [n for n in range(50) if n not in (3, 40, 41)]
    assert [id for (id,) in rows_of(registry, "dropped", "id")] == [*range(50, 100)]
    assert parents(registry, "kept")[3] == (3, "orders", 4)
    reason = "where: Could not convert string 'x' to INT32 when casting from source column item"
    assert rejects(registry) == [(3, reason), (40, reason), (41, reason)]


@ray
@pytest.mark.parametrize("params", [{"where": "cast(item as int) < 50"}, {"set": {"n": "cast(item as int)"}}])
def test_all_rows_may_fail(registry: Registry, params: dict[str, object]) -> None:
    write("orders", order(1), order(2))
    op = "filter" if "where" in params else "map"
    run_ok(pipeline(op, **params), registry)
    assert rows_of(registry, "kept" if op == "filter" else "") == []
    assert [row for row, _ in rejects(registry)] == [0, 1]


@ray
def test_empty_inputs_give_empty_outputs(registry: Registry) -> None:
    write("orders")
    run_ok(pipeline("filter", where="price > 5"), registry)
    assert rows_of(registry, "kept") == rows_of(registry, "dropped") == []


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("pirce > 5", "there is no field 'pirce'; did you mean 'price'?"),
        ("lenght(item) > 5", "there is no SQL function lenght(); did you mean 'length'?"),
        ("price + 1", "the expression is float?, but must be true or false (bool)"),
        ("item", "the expression is str, but must be true or false (bool)"),
        ("price >", "syntax error at"),
        ("", "the expression is empty"),
        ("item > 5, true", "expected one SQL expression"),
        ("random() < 0.5", "random() gives a different result each time"),
        ("item = current_date", "current_date gives a different result each time"),
        ("count(*) > 1", "looks at several rows, and an expression sees one row; use the operator `sql`"),
        ("row_number() over () = 1", "looks at several rows"),
        ("id in (select 1)", "has no subquery; use the operator `sql`"),
        (
            'item = "tea"',
            "there is no field 'tea'; the fields are buyer, id, item, price, tags, urgency; put text in single quotes",
        ),
    ],
)
def test_mistakes_are_found_before_the_run(registry: Registry, where: str, said: str) -> None:
    write("orders", order(1))
    text = pipeline("filter", where=where)
    found = wrong(text)
    assert said in found
    assert place(text, '"where": ').rpartition(":")[0].rpartition(":")[0] in found  # the line


def test_partitions_and_their_order_change_nothing(registry: Registry) -> None:
    write("orders", *(order(n, price=n % 7) for n in range(3000)))
    text = pipeline("filter", where="price > 3 and item = 'tea'")
    run_ok(text, registry, cluster=Scripted(lambda waiting: waiting - 1))
    backwards = rows_of(registry, "kept")
    run_ok(text, registry, force="step", cluster=Scripted(lambda waiting: 0))
    assert rows_of(registry, "kept") == backwards
    assert [row[0] for row in backwards] == [n for n in range(3000) if n % 7 > 3]
