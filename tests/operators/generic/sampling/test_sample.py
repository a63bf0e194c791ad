"""`sample` draws rows by their content: exactly so many, whatever their order."""

from __future__ import annotations

import random

import pytest

from registry import Registry
from tests.engine.run_pipelines import ask
from tests.operators.generic.pipelines import metrics, order, parents, pipeline, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")


def many(count: int = 100) -> list[dict[str, object]]:
    return [order(n, item="abc"[n % 3], urgency="low" if n % 10 else "high", tags=[str(n)]) for n in range(count)]


def drawn(registry: Registry) -> list[int]:
    return [id for (id,) in rows_of(registry, columns="id")]


@ray
def test_exactly_n_rows_are_drawn_in_order_with_their_lineage(registry: Registry) -> None:
    write("orders", *many())
    run_ok(pipeline("sample", n=7), registry)
    ids = drawn(registry)
    assert len(set(ids)) == 7
    assert ids == sorted(ids)
    assert parents(registry) == [(row, "orders", id) for row, id in enumerate(ids)]
    assert metrics(registry) == {"drawn": 7, "others": 93}
    assert rows_of(registry)[0][4] == [str(ids[0])]


@ray
def test_the_order_of_the_rows_changes_nothing_and_smaller_samples_are_part_of_larger_ones(registry: Registry) -> None:
    rows = many()
    write("orders", *rows)
    run_ok(pipeline("sample", n=10), registry)
    ten = set(drawn(registry))
    random.Random(3).shuffle(rows)
    write("orders", *rows, *many(100)[:0])
    run_ok(pipeline("sample", n=10), registry)
    assert set(drawn(registry)) == ten
    run_ok(pipeline("sample", n=20), registry)
    assert set(drawn(registry)) > ten
    run_ok(pipeline("sample", n=10, seed=1), registry)
    assert set(drawn(registry)) != ten


@ray
@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (0.333, 33), (1.0, 100), (0.004, 0), (0.005, 1)])
def test_a_share_is_exact_but_for_rounding(registry: Registry, share: float, count: int) -> None:
    write("orders", *many())
    run_ok(pipeline("sample", share=share), registry)
    assert len(drawn(registry)) == count


@ray
def test_strata_have_n_rows_each_or_the_same_share(registry: Registry) -> None:
    write("orders", *many())
    counts = 'select urgency, count(*) from "demo/step" group by 1 order by 1'
    run_ok(pipeline("sample", n=5, by="urgency"), registry)
    assert ask(registry, counts) == [("high", 5), ("low", 5)]
    run_ok(pipeline("sample", share=0.2, by=["urgency"]), registry)
    assert ask(registry, counts) == [("high", 2), ("low", 18)]
    run_ok(pipeline("sample", share=0.25, by=["urgency", "item"]), registry)
    assert len(drawn(registry)) == 25


@ray
def test_equal_rows_are_drawn_like_others_and_too_few_rows_are_all_taken(registry: Registry) -> None:
    write("orders", *[order(1)] * 5)
    run_ok(pipeline("sample", n=3), registry)
    assert drawn(registry) == [1, 1, 1]
    run_ok(pipeline("sample", n=9), registry)
    assert drawn(registry) == [1] * 5


@ray
def test_empty_inputs(registry: Registry) -> None:
    write("orders")
    run_ok(pipeline("sample", n=3), registry)
    assert drawn(registry) == []
    run_ok(pipeline("sample", share=0.5, by="item"), registry)
    assert drawn(registry) == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "give n, a number of rows, or share, a part of them"),
        ({"n": 1, "share": 0.5}, "give n or share, not both"),
        ({"n": 0}, "parameter 'n' of sample"),
        ({"n": -1}, "parameter 'n' of sample"),
        ({"share": 1.5}, "parameter 'share' of sample"),
        ({"share": 0}, "parameter 'share' of sample"),
        ({"n": 1, "by": "urgncy"}, "by: there is no field 'urgncy'; did you mean 'urgency'?"),
        ({"n": 1, "by": ["item", "x"]}, "by: there is no field 'x'"),
    ],
)
def test_check_reports_mistakes(registry: Registry, params: dict[str, object], said: str) -> None:
    write("orders", order(1))
    assert said in wrong(pipeline("sample", **params))
