"""`mix` mixes rows of several inputs in given proportions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from registry import Registry
from tests.engine.run_pipelines import ask, run_text
from tests.operators.generic.pipelines import metrics, parents, pipeline, rows_of, run_ok, write, wrong

ray = pytest.mark.usefixtures("in_process")

TEXT = {"text": "str"}


def texts(letter: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{letter}{n}"} for n in range(count)]


def of(types: dict[str, Any] | None = None, **params: Any) -> str:
    types = types or {"ones": TEXT, "twos": TEXT}
    return pipeline("mix", {name[0]: name for name in types}, types, **params)


def mixed(registry: Registry) -> list[str]:
    return [text for (text,) in rows_of(registry, columns="text")]


@ray
def test_there_are_as_many_rows_as_the_weights_allow(registry: Registry) -> None:
    write("ones", *texts("o", 10))
    write("twos", *texts("t", 100))
    run_ok(of(weights={"o": 1, "t": 2}), registry)
    found = mixed(registry)
    assert len(found) == len(set(found)) == 30
    assert sum(text[0] == "o" for text in found) == 10
    assert metrics(registry) == {"o": 10, "t": 20}
    assert found != sorted(found)  # mixed, not one after the other
    assert parents(registry) == [(row, "ones" if text[0] == "o" else "twos", int(text[1:])) for row, text in enumerate(found)]


@ray
def test_n_rows_in_the_same_proportions_whatever_their_order(registry: Registry) -> None:
    ones, twos = texts("o", 50), texts("t", 50)
    write("ones", *ones)
    write("twos", *twos)
    run_ok(of(weights={"o": 0.3, "t": 0.7}, n=10), registry)
    found = mixed(registry)
    assert sorted(text[0] for text in found) == ["o"] * 3 + ["t"] * 7
    random.Random(1).shuffle(ones)
    write("ones", *ones)
    run_ok(of(weights={"o": 0.3, "t": 0.7}, n=10), registry)
    assert mixed(registry) == found
    run_ok(of(weights={"o": 0.3, "t": 0.7}, n=10, seed=2), registry)
    assert mixed(registry) != found


@ray
def test_rows_are_repeated_only_for_n_and_that_is_reported(registry: Registry) -> None:
    write("ones", *texts("o", 3))
    write("twos", *texts("t", 50))
    text = of(weights={"o": 1, "t": 1}, n=20)
    result = run_text(text, registry)
    assert sorted(mixed(registry).count(f"o{n}") for n in range(3)) == [3, 3, 4]
    assert any("'o' has 3 rows, and 10 are needed: 7 are repetitions" in note for step in result.steps for note in step.notes)
    assert metrics(registry, "repeated") == {"o": 7}


@ray
def test_weight_0_leaves_an_input_out_and_empty_inputs_are_reported(registry: Registry) -> None:
    write("ones", *texts("o", 3))
    write("twos")
    run_ok(of(weights={"o": 1, "t": 0}), registry)
    assert sorted(mixed(registry)) == ["o0", "o1", "o2"]
    result = run_text(of(weights={"o": 1, "t": 1}), registry)
    assert mixed(registry) == []
    assert any("of 3 rows of 'o' none is taken" in note for step in result.steps for note in step.notes)
    failed = run_text(of(weights={"o": 1, "t": 1}, n=4), registry)
    assert "of which 2 should come from 't', which has no rows" in str(failed.error)


@ray
def test_the_type_is_what_all_rows_fit(registry: Registry) -> None:
    one = {"text": "str", "kind": "a | b", "score": "float?", "by": {"name": "str"}}
    two = {"text": "str?", "by": {"name": "str?"}, "kind": "b | c"}
    write("ones", {"text": "ö", "kind": "a", "score": 0.5, "by": {"name": "x"}})
    write("twos", {"text": None, "kind": "c", "by": {"name": None}})
    run_ok(of({"ones": one, "twos": two}, weights={"o": 1, "t": 1}), registry)
    assert sorted(rows_of(registry, columns='text, kind, score, "by"'), key=str) == [
        ("ö", "a", 0.5, {"name": "x"}),
        (None, "c", None, {"name": None}),
    ]
    assert ask(registry, "select count(*) from row_lineage where child = 'demo/step'") == [(2,)]


@pytest.mark.parametrize(
    ("types", "params", "said"),
    [
        (None, {}, "mix needs the parameter 'weights'"),
        (None, {"weights": {"o": 1, "t": -1}}, "weights: t is -1, but must be 0 or more"),
        (None, {"weights": {"o": 0, "t": 0}}, "weights: all are 0, so there is nothing to mix"),
        (None, {"weights": {"o": 1, "x": 1}}, "weights: there is no input 'x'"),
        (None, {"weights": {"o": 1}}, "weights: the input 't' has no weight; 0 leaves its rows out"),
        (None, {"weights": {"o": 1, "t": 1}, "n": 0}, "parameter 'n' of mix"),
        ({"ones": TEXT, "twos": {"text": "int"}}, {"weights": {"o": 1, "t": 1}}, "field 'text' is str in 'o' and int in 't'"),
        ({"ones": TEXT, "twos": {"text": "str", "x": "int"}}, {"weights": {"o": 1, "t": 1}}, "field 'x' (int in 't') is missing in 'o'"),
    ],
)  # fmt: skip
def test_check_reports_mistakes(registry: Registry, types: dict[str, Any] | None, params: dict[str, object], said: str) -> None:
    write("ones", {"text": "1"})
    write("twos", {"text": 1, "x": 1} if types and "x" in types["twos"] else {"text": 1 if types else "1"})
    text = of(types, **params)
    found = wrong(text)
    assert said in found
    if "-1" in said:
        line = text[: text.index('"t": -1')].count("\n") + 1
        assert f"p.yaml:{line}:" in found
