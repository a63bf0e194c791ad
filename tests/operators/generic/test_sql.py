"""`sql` makes rows with one query over its inputs; each row knows the rows that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.pipeline.check import check
from registry import Registry
from registry.records.described import described
from tests.engine.run_pipelines import ask
from tests.operators.generic.pipelines import ORDER, order, parents, pipeline, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")

TYPES = {"orders": ORDER, "buyers": {"id": "int", "name": "str", "city": "str?"}}
INPUTS = {"o": "orders", "b": "buyers"}


def data() -> None:
    write(
        "orders",
        *(
            order(n, item=item, price=n / 2, tags=tags)
            for n, item, tags in ((1, "tea", ["a", "b"]), (2, "rice", []), (3, "tea", ["c"]), (4, "salt", ["ü"]))
        ),
    )
    write(
        "buyers",
        {"id": 3, "name": "Ann", "city": None},
        {"id": 1, "name": "Bo", "city": "Rome"},
        {"id": 1, "name": "Ça", "city": "Oslo"},
        {"id": 9, "name": "Di", "city": "Bern"},
    )


def of(query: str, inputs: dict[str, str] | None = None) -> str:
    given = inputs or {"o": "orders"}
    return pipeline("sql", given, {name: TYPES[name] for name in given.values()}, query=query)


def types(text: str) -> dict[str, str]:
    Path("p.yaml").write_text(text)
    record = check(Path("p.yaml")).steps["step"].operator.outputs["out"]
    return {field.name: str(field.type) for field in described(record).fields}


O, B = "orders", "buyers"  # noqa: E741


@ray
@pytest.mark.parametrize(
    ("query", "rows", "sources"),
    [
        ("select id, item from o where price > 1", [(3, "tea"), (4, "salt")], [(0, O, 2), (1, O, 3)]),
        ("select id from o order by item, id desc limit 3", [(2,), (4,), (3,)], [(0, O, 1), (1, O, 3), (2, O, 2)]),
        ("from o select id limit 2 offset 1", [(2,), (3,)], [(0, O, 1), (1, O, 2)]),
        (
            "select item, count(*) as n, list(id) as ids from o group by item",
            [("tea", 2, [1, 3]), ("rice", 1, [2]), ("salt", 1, [4])],
            [(0, O, 0), (0, O, 2), (1, O, 1), (2, O, 3)],
        ),
        ("select item, max(price) as p from o group by all having count(*) > 1", [("tea", 1.5)], [(0, O, 0), (0, O, 2)]),
        ("select count(*) as n, sum(id) as s from o", [(4, 10)], [(0, O, n) for n in range(4)]),
        ("select count(*) as n from o where id > 99", [(0,)], []),
        ("select distinct item from o", [("tea",), ("rice",), ("salt",)], [(0, O, 0), (0, O, 2), (1, O, 1), (2, O, 3)]),
        ("select distinct on (item) item, id from o order by id desc", [("salt", 4), ("tea", 3), ("rice", 2)], [(0, O, 3), (1, O, 2), (2, O, 1)]),
        ("select id, rank() over (partition by item order by price desc) as r from o", [(1, 2), (2, 1), (3, 1), (4, 1)], [(n, O, n) for n in range(4)]),
        ("select id from o qualify row_number() over (partition by item order by id) = 2", [(3,)], [(0, O, 2)]),
        ("select id, unnest(tags) as tag from o", [(1, "a"), (1, "b"), (3, "c"), (4, "ü")], [(0, O, 0), (1, O, 0), (2, O, 2), (3, O, 3)]),
        ("select id, u.tag from o, unnest(o.tags) as u(tag) where u.tag <> 'a'", [(1, "b"), (3, "c"), (4, "ü")], [(0, O, 0), (1, O, 2), (2, O, 3)]),
        ("select id from o where id < 3 union all select id * 10 from o where id < 3", [(1,), (2,), (10,), (20,)], [(0, O, 0), (1, O, 1), (2, O, 0), (3, O, 1)]),
        ("with t as (select * from o where item = 'tea') select x.id, y.id as other from t x join t y on x.id < y.id", [(1, 3)], [(0, O, 0), (0, O, 2)]),
        ("select s.item, s.n from (select item, count(*) as n from o group by item) s where n > 1", [("tea", 2)], [(0, O, 0), (0, O, 2)]),
        ("select id from o using sample reservoir(2 rows) repeatable (7)", None, None),
        ("select id from (select id from o order by id desc limit 2)", [(3,), (4,)], [(0, O, 2), (1, O, 3)]),
        ("select id from o where false", [], []),
    ],
)  # fmt: skip
def test_rows_of_one_input_know_their_sources(
    registry: Registry, query: str, rows: list[object] | None, sources: list[object] | None
) -> None:
    data()
    text = of(query)
    run_ok(text, registry)
    if rows is not None:
        assert rows_of(registry) == rows
        assert parents(registry) == sources
    else:
        assert [(row, O, id - 1) for row, (id,) in enumerate(rows_of(registry))] == parents(registry)
    before = ask(registry, "select content_id from versions where name = 'demo/step'")
    run_ok(text, registry, force="step")
    assert set(ask(registry, "select content_id from versions where name = 'demo/step'")) == set(before)


@ray
@pytest.mark.parametrize(
    ("query", "rows", "sources"),
    [
        (
            "select o.id, b.name from o join b using (id)",
            [(1, "Bo"), (1, "Ça"), (3, "Ann")],
            [(0, B, 1), (0, O, 0), (1, B, 2), (1, O, 0), (2, B, 0), (2, O, 2)],
        ),
        (
            "select o.id, b.name from o left join b on o.id = b.id where o.id > 2",
            [(3, "Ann"), (4, None)],
            [(0, B, 0), (0, O, 2), (1, O, 3)],
        ),
        (
            "select b.name, count(o.id) as n from b full join o on o.id = b.id group by b.name having b.name is null",
            [(None, 2)],
            [(0, O, 1), (0, O, 3)],
        ),
        (
            "select id, 'o' as kind from o where id = 4 union all select id, 'b' from b where id = 9",
            [(4, "o"), (9, "b")],
            [(0, O, 3), (1, B, 3)],
        ),
        (
            "select id from o where id > 2 union select id from b",
            [(3,), (4,), (1,), (9,)],
            [(0, B, 0), (0, O, 2), (1, O, 3), (2, B, 1), (2, B, 2), (3, B, 3)],
        ),
        (
            "select id from o union (select id from b) order by id desc limit 2",
            [(9,), (4,)],
            [(0, B, 3), (1, O, 3)],
        ),
        (
            "select item, n from (select item, 1 as n from o union select name, 1 from b) where n = 1 and item in ('tea', 'Bo')",
            [("tea",1), ("Bo",1)],
            [(0, O, 0), (0, O, 2), (1, B, 1)],
        ),
        ("select * exclude (tags, buyer, urgency, price) from o cross join (select city from b where id = 3)", [(1, "tea", None), (2, "rice", None), (3, "tea", None), (4, "salt", None)], [(n, *each) for n in range(4) for each in ((B, 0), (O, n))]),
    ],
)  # fmt: skip
def test_rows_of_joins_come_from_all_joined_rows(
    registry: Registry, query: str, rows: list[object], sources: list[object]
) -> None:
    data()
    run_ok(of(query, INPUTS), registry)
    assert rows_of(registry) == rows
    assert parents(registry) == sources


@ray
@pytest.mark.parametrize(
    ("query", "why", "rows"),
    [
        ("select id from o where id in (select id from b)", "a subquery in an expression", [(1,), (3,)]),
        ("select id from o except select id from b order by id", "EXCEPT", [(2,), (4,)]),
        ("select o.id from o semi join b using (id) order by id", "semi join", [(1,), (3,)]),
        ("with recursive r as (select 1 as n union all select n + 1 from r where n < 2) select n from r, (from o, b limit 1)", "recursive", [(1,), (2,)]),
    ],
)  # fmt: skip
def test_lineage_that_cannot_be_known_is_unknown_and_the_plan_says_so(
    registry: Registry, query: str, why: str, rows: list[object]
) -> None:
    data()
    text = of(query, INPUTS)
    run_ok(text, registry)
    assert rows_of(registry) == rows
    assert parents(registry) == []
    [note] = check(Path("p.yaml")).steps["step"].operator.notes(check(Path("p.yaml")).steps["step"].params)
    assert "opaque" in note
    assert why in note


@ray
def test_empty_inputs(registry: Registry) -> None:
    write("orders")
    run_ok(of("select item, count(*) as n from o group by item"), registry)
    assert rows_of(registry) == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("select * from o", {"id": "int", "item": "str", "price": "float?", "urgency": "low | high", "tags": "list[str]", "buyer": "{name: str, age: int?}"}),
        ("select id, lower(item) as i, price * 2 as p from o", {"id": "int", "i": "str", "p": "float?"}),
        ("select urgency, count(*) as n, sum(id) as s, avg(price) as p, list(item) as l from o group by urgency", {"urgency": "low | high", "n": "int", "s": "int", "p": "float?", "l": "list[str]"}),
        ("select sum(id) as s, count(*) as n from o", {"s": "int?", "n": "int"}),
        ("with t as (select urgency, tags, count(*) as n from o group by all) select * from t", {"urgency": "low | high", "tags": "list[str]", "n": "int"}),
        ("select x.item, y.item as other from o x left join o y on x.id = y.id + 1", {"item": "str", "other": "str?"}),
        ("select item, urgency, count(*) as n from o group by rollup (item, urgency)", {"item": "str?", "urgency": "(low | high)?", "n": "int"}),
        ("select id from o union all select null from o", {"id": "int?"}),
        ("select id, row_number() over (order by id) as n, lag(id) over (order by id) as l from o", {"id": "int", "n": "int", "l": "int?"}),
    ],
)  # fmt: skip
def test_types_follow_from_the_query(registry: Registry, query: str, found: dict[str, str]) -> None:
    data()
    assert types(of(query)) == found


@ray
def test_numbers_and_times_keep_their_values(registry: Registry) -> None:
    data()
    run_ok(
        of(
            "select 9223372036854775807 + 0 * id as big, timestamp '2026-01-31 23:59:59.123456' as t, {a: [id]} as s from o limit 1"
        ),
        registry,
    )
    [(big, moment, nested)] = rows_of(registry)
    assert (big, moment.isoformat(), nested) == (2**63 - 1, "2026-01-31T23:59:59.123456+00:00", {"a": [1]})


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select itm from o", "there is no field 'itm'; did you mean 'item'?"),
        ("select o.itm from o", "o has no field 'itm'; did you mean 'item'?"),
        ("select x.item from o", "there is no field or input 'x'"),
        ("select id from orders", "there is no input 'orders'; available: o"),
        ("select count(*) from o", "column 1 (count_star()) has no name; give it one, as in `count_star() as total`"),
        ("select id, id from o", "two columns are named 'id'"),
        ("select id as row from o", "column 1 cannot be named 'row'"),
        (
            "select id * 1.5 as x from o",
            "column 'x': its type is DECIMAL(21,1), which a field cannot have; write cast(... as double)",
        ),
        ("select id from o order by random()", "random() gives a different result each time"),
        ("select id from o using sample 3", "this sample differs each time"),
        ("select now() as t from o", "now() gives a different result each time"),
        ("select id from o; select 1", "expected one SELECT, found 2 statements"),
        ("select 1 as one", "the query does not use the input 'o'; use it, or remove it from `in`"),
        ("select id frm o", ""),
        ("select $1 as x from o", "there is no value for $1"),
    ],
)
def test_mistakes_are_found_with_their_place(registry: Registry, query: str, said: str) -> None:
    data()
    text = of(query)
    found = wrong(text)
    assert said in found
    line = text[: text.index('"query"')].count("\n") + 1
    assert f"p.yaml:{line}:" in found


@ray
def test_a_value_that_fails_fails_the_step_with_the_reason(registry: Registry) -> None:
    from tests.engine.run_pipelines import run_text

    data()
    result = run_text(of("select cast(item as int) as n from o"), registry)
    assert result.state == "failed"
    assert "the query failed: Could not convert string 'tea' to INT32" in str(result.error)
