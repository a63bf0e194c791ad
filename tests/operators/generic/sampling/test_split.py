"""`split` divides rows into named parts; related rows stay together."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from operators.records import MathProblem
from registry import Registry
from tests.engine.run_pipelines import ask
from tests.operators.generic.pipelines import metrics, order, parents, pipeline, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")

SHARES = {"train": 0.8, "test": 0.2}


def many(count: int = 100) -> list[dict[str, Any]]:
    return [order(n, urgency="low" if n % 10 else "high") for n in range(count)]


def part(registry: Registry, name: str) -> list[int]:
    return [id for (id,) in rows_of(registry, name, "id")]


@ray
def test_the_pipeline_names_the_parts_and_they_have_their_shares(registry: Registry) -> None:
    write("orders", *many())
    run_ok(pipeline("split", shares={"train": 0.7, "validation": 0.2, "test": 0.1}), registry)
    parts = {name: part(registry, name) for name in ("train", "validation", "test")}
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 70, "validation": 20, "test": 10}
    assert sorted(id for ids in parts.values() for id in ids) == [*range(100)]
    assert parents(registry, "test") == [(row, "orders", id) for row, id in enumerate(parts["test"])]
    assert metrics(registry) == {"test": 10, "train": 70, "validation": 20}


@ray
def test_further_steps_use_the_parts_by_name(registry: Registry) -> None:
    write("orders", *many(10))
    text = json.loads(pipeline("split", shares=SHARES))
    text["steps"]["small"] = {"op": "sample", "in": "step.test", "with": {"n": 1}}
    run_ok(json.dumps(text), registry)
    assert len(ask(registry, 'select * from "demo/small"')) == 1
    text["steps"]["small"]["in"] = "step.tset"
    assert "step 'step' has no output 'tset'\n    did you mean 'test'?" in wrong(json.dumps(text))
    text["steps"]["step"]["with"]["shares"] = {"my train": 0.8, "test": 0.2}
    found = wrong(json.dumps(text))
    assert "'my train' cannot name an output" in found
    assert "tset" not in found  # which outputs there are is not known


@ray
def test_neither_order_nor_a_few_more_rows_move_others(registry: Registry) -> None:
    rows = many(200)
    write("orders", *rows)
    run_ok(pipeline("split", shares=SHARES), registry)
    test = set(part(registry, "test"))
    random.Random(1).shuffle(rows)
    write("orders", *rows)
    run_ok(pipeline("split", shares=SHARES), registry)
    assert set(part(registry, "test")) == test
    write("orders", *rows, *many(210)[200:])
    run_ok(pipeline("split", shares=SHARES), registry)
    after = set(part(registry, "test"))
    assert len(after) == 42
    assert len(test - after) <= 4
    run_ok(pipeline("split", shares=SHARES, seed=5), registry)
    assert set(part(registry, "test")) != after


@ray
def test_rows_of_one_source_row_and_equal_rows_stay_together(registry: Registry) -> None:
    write("orders", *many(60), order(7), order(8))
    text = json.loads(pipeline("split", shares=SHARES))
    text["steps"]["told"] = {
        "op": "sql",
        "in": {"o": "orders"},
        "with": {"query": "select id, unnest([1, 2, 3]) as telling from o"},
    }
    text["steps"]["step"]["in"] = "told"
    run_ok(json.dumps(text), registry)
    train, test = set(part(registry, "train")), set(part(registry, "test"))
    assert not train & test
    assert len(part(registry, "train")) + len(part(registry, "test")) == 186
    assert metrics(registry, "groups") == {"test": 12, "train": 48}


@ray
def test_strata_are_divided_alike(registry: Registry) -> None:
    write("orders", *many())
    run_ok(pipeline("split", shares=SHARES, by="urgency"), registry)
    counts = dict(ask(registry, 'select urgency, count(*) from "demo/step.test" group by 1'))
    assert counts == {"high": 2, "low": 18}


@ray
def test_a_group_larger_than_a_part_is_reported(registry: Registry) -> None:
    write("orders", *[order(1)] * 9, order(2))
    from tests.engine.run_pipelines import run_text

    result = run_text(pipeline("split", shares=SHARES), registry)
    notes = [note for step in result.steps for note in step.notes]
    assert any("a group of 9 related rows is larger than the share of test (0.2 of 10 rows)" in note for note in notes)


@ray
def test_empty_inputs(registry: Registry) -> None:
    write("orders")
    run_ok(pipeline("split", shares=SHARES), registry)
    assert rows_of(registry, "train") == rows_of(registry, "test") == []


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "split needs the parameter 'shares'"),
        ({"shares": {"train": 0.8, "test": 0.3}}, "shares: they add up to 1.1, but must add up to 1"),
        ({"shares": {"train": 1.2, "test": -0.2}}, "shares: test is -0.2, but must be above 0"),
        ({"shares": {"train": 1.0, "test": 0}}, "shares: test is 0, but must be above 0"),
        ({"shares": {"train": 1.0}}, "give at least two parts"),
        ({"shares": {"train": "lots", "test": 0.2}}, "parameter 'shares.train' of split"),
        ({"shares": SHARES, "by": "x"}, "by: there is no field 'x'"),
    ],
)
def test_check_reports_mistakes(registry: Registry, params: dict[str, object], said: str) -> None:
    write("orders", order(1))
    text = pipeline("split", **params)
    found = wrong(text)
    assert said in found
    if "test is" in said:
        line = text[: text.index('"test"')].count("\n") + 1
        assert f"p.yaml:{line}:" in found


def test_shares_that_are_not_exact_in_binary_add_up(registry: Registry) -> None:
    from operators.generic.sampling.split import SplitParams

    params = SplitParams(shares={"a": 0.1, "b": 0.2, "c": 0.7})
    assert list(params.problems({"rows": MathProblem})) == []
