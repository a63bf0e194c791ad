"""Queries with row numbers give the same rows as without them, and the sources of a row suffice to make it."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pyarrow as pa
import pytest

from engine.operator import Record, bind_query, run_query


class A(Record):
    """Rows with repeated keys, nulls and lists."""

    x: int
    g: str
    v: float | None
    t: list[str]


class B(Record):
    """Rows to join them with."""

    x: int
    y: str


_draws = random.Random(1)
TABLES = {
    "a": A.to_table(
        [
            A(
                x=_draws.randrange(20),
                g=_draws.choice("pqr"),
                v=_draws.choice([None, _draws.random()]),
                t=[str(n) for n in range(_draws.randrange(3))],
            )
            for _ in range(150)
        ]
    ),
    "b": B.to_table([B(x=_draws.randrange(25), y=_draws.choice("uvw")) for _ in range(40)]),
}
TYPES: dict[str, type[Record]] = {"a": A, "b": B}

LOCAL = [
    "select * from a where v > 0.5",
    "select a.*, y from a join b using (x)",
    "select a.x, y from a left join b on a.x = b.x and y = 'u' where y is not null",
    "select g, count(*) n, sum(x) s, min(v) m from a group by g",
    "select g, count(distinct x) n from a group by all having n > 3",
    "select distinct g, x from a",
    "select x, unnest(t) u from a",
    "select u.k, count(*) n from a, unnest(a.t) u(k) group by u.k",
    "select g, x from a where v > 0.5 union all select y, x from b",
    "select g, x from a union select y, x from b",
    "with c as (select g, max(x) mx from a group by g), e as (select * from c where mx > 3) "
    "select a.g, a.x, e.mx from a join e on a.g = e.g and a.x = e.mx",
    "select g, list(x order by x) l, string_agg(g, ',' order by x) st from a group by g",
    "select g, count(*) filter (x > 3) n, bool_or(v is null) z from a group by g order by g",
    "select a1.x, a2.g from a a1 join a a2 on a1.x = a2.x and a1.g < a2.g",
    "select x % 3 as m, avg(v) av from a group by 1",
    "select case when x > 3 then 'b' else 's' end as k, count(*) n from a group by k",
    "select struct_pack(k := g, n := x) st from a",
    "select distinct g from (select distinct g, x from a) order by g desc",
    "select y, n from (select y, count(*) n from b group by y union all select g, count(*) from a group by g) order by n, y",
    "select sum(x) s from (select x from a union all select x from b)",
    "from a select g where x = 1",
]
"""Each row depends on its sources alone."""

WIDE = [
    "select a.x, b.y from a full join b on a.x = b.x + 3",
    "select distinct on (g) g, x, v from a order by g, v desc nulls last, x",
    "select g, x, sum(x) over (partition by g order by x rows between 2 preceding and current row) s from a",
    "select a.x, b.y from a asof join b on a.x >= b.x",
    "select g, x from a order by x desc, g limit 10",
    "select g, count(*) n from a group by rollup (g)",
    "select count(*) n from a where x > 1000",
    "select x, g from a qualify row_number() over (partition by g order by x, v nulls first, len(t)) <= 2",
    "select * exclude (t) from a using sample reservoir(20 rows) repeatable (3)",
    "select a.g, s.y from a, lateral (select y from b where b.x = a.x limit 1) s",
    "select g, s.m from a cross join (select max(x) m from b) s",
    "select a.g from a positional join b where a.g is not null",
]
"""Others decide, too, which rows there are."""


def bound_of(query: str):
    used = {name: record for name, record in TYPES.items() if re.search(rf"\b(?:from|join|,) {name}\b", query)}
    bound = bind_query(query, used)
    assert not bound.gap
    return bound, {name: TABLES[name] for name in used}


def rows_of(table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


@pytest.mark.parametrize("query", LOCAL + WIDE)
def test_row_numbers_change_no_row(query: str) -> None:
    bound, tables = bound_of(query)
    plain = run_query(replace(bound, statement=query, gap="run as it is"), tables).table
    assert rows_of(run_query(bound, tables).table) == rows_of(plain)
    assert plain.column_names == [field.name for field in bound.fields]


@pytest.mark.parametrize("query", LOCAL)
def test_the_sources_of_a_row_suffice_to_make_it(query: str) -> None:
    bound, tables = bound_of(query)
    found = run_query(bound, tables)
    assert found.sources
    rows = found.table.to_pylist()
    for row, sources in list(zip(rows, found.sources, strict=True))[::7]:
        own = {
            name: table.take(pa.array(sorted(number for port, number in sources if port == name), pa.int64()))
            for name, table in tables.items()
        }
        assert row in run_query(bound, own).table.to_pylist()
