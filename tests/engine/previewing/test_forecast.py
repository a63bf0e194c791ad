"""A forecast says what a run will take, with an interval that contains the truth about four times out of five."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine.pipeline.check import check
from engine.pipeline.graph import Pipeline
from engine.planning.plan import make_plan
from engine.previewing.draws import Population, constant, interval, widening
from engine.previewing.forecast import forecast
from engine.previewing.observed import recall
from engine.previewing.results import Forecast, Sampled, StepForecast
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.previewing.test_preview import many, pipeline, preview_text
from tests.engine.run_pipelines import run_text, words

pytestmark = pytest.mark.proof


@pytest.mark.parametrize("rows", [10, 50])
@pytest.mark.parametrize("kind", ["lengths", "long tails", "half survives", "a tenth survives", "all the same"])
def test_the_interval_contains_the_truth_about_four_times_of_five(rows: int, kind: str) -> None:
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(200):
        draws = {
            "lengths": lambda: random.lognormal(4, 0.4, 500),
            "long tails": lambda: random.lognormal(4, 1.0, 500),
            "half survives": lambda: (random.random(500) < 0.5) * random.lognormal(4, 0.4, 500),
            "a tenth survives": lambda: (random.random(500) < 0.1) * random.lognormal(4, 0.4, 500),
            "all the same": lambda: np.full(500, 7.0),
        }[kind]()
        sample, others = draws[:rows], draws[rows:]
        population = Population([Sampled("words", 500, rows)], random)
        amount = population.amount(list(sample), 0.0, again=False, survival=1.0)
        low, high = interval(amount, rows)[1:]
        inside += low - 1e-6 <= others.sum() <= high + 1e-6
    # Of ten rows with long tails, most samples contain no long one; if a tenth survives, a third of the samples have no survivor.
    least = {("long tails", 10): 0.6, ("a tenth survives", 10): 0.5}.get((kind, rows), 0.72)
    assert inside / 200 >= least
    assert kind == "all the same" or inside / 200 <= 0.95


def test_an_amount_that_was_seen_completely_is_certain() -> None:
    population = Population([Sampled("words", 3, 3)], np.random.default_rng(0))
    assert interval(population.amount([1.0, 2.0, 3.0], 0.0, again=False, survival=1.0), 3) == (0, 0, 0)


def test_few_rows_widen_an_interval_and_many_do_not() -> None:
    assert [round(widening(rows), 2) for rows in (0, 2, 10, 50, 10_000)] == [1.0, 4.16, 1.19, 1.03, 1.0]
    assert interval(constant(5), 10) == (5, 5, 5)


def foreseen(text: str, registry: Registry) -> tuple[Pipeline, Forecast | None]:
    """What `engine plan` shows."""
    Path("p.yaml").write_text(text)
    if registry.exists:
        with registry.look_ups() as look_ups:
            checked = check(Path("p.yaml"), None, look_ups)
    else:
        checked = check(Path("p.yaml"), None)
    read = registry if registry.exists else Registry("scratch")
    plan = make_plan(checked, read, select=set(), force=set())
    return checked, forecast(checked, plan, recall(registry, checked.spec.name), registry)


def step(found: Forecast | None, name: str) -> StepForecast:
    """A step of a forecast."""
    assert found
    return next(each for each in found.steps if each.name == name)


def test_a_plan_shows_what_the_preview_has_shown(registry: Registry, chat_server: ChatServer) -> None:
    many(100)
    text = pipeline("a: {op: ask, in: words}", chat_server.model(price={"input": 1.0, "output": 2.0}))
    made = preview_text(text, registry, rows=10)
    _, found = foreseen(text, registry)
    assert found == made.forecast
    assert step(found, "a").calls == (180, 180, 180)
    assert step(found, "a").cost_usd == pytest.approx((180 * (10 + 2 * 5) / 1e6,) * 3)
    # Prices and limits may change; rows may be added.
    many(200)
    dearer = text.replace('"output": 2.0', '"output": 20.0')
    assert step(foreseen(dearer, registry)[1], "a").cost_usd == pytest.approx((380 * (10 + 20 * 5) / 1e6,) * 3)
    # A changed prompt invalidates it.
    assert foreseen(text.replace("op: ask,", "op: ask, with: {prompt: Cry},"), registry)[1] is None


def test_survival_seen_as_complete_is_not_certain(registry: Registry, chat_server: ChatServer) -> None:
    many(100)
    text = pipeline("a: {op: ask_once, in: words}, b: {op: ask_once, in: a}", chat_server.model())
    made = preview_text(text, registry, rows=10)
    assert step(made.forecast, "a").calls == (90, 90, 90)
    calls = step(made.forecast, "b").calls
    assert calls
    assert (calls.expected, calls.high) == pytest.approx((90, 90), rel=1e-4)
    assert 70 < calls.low < 88


def test_a_step_that_no_row_reached_may_get_some(registry: Registry, chat_server: ChatServer) -> None:
    many(100)
    made = preview_text(
        pipeline("a: {op: number_of, in: words}, b: {op: ask_once, in: a}", chat_server.model()), registry, rows=10
    )
    found = step(made.forecast, "b")
    assert found.calls
    assert (found.calls.expected, found.cost_usd) == (0, None)
    assert 3 < found.calls.high < 30
    assert made.forecast
    assert made.forecast.unknown == ("b",)


def test_the_time_follows_from_latencies_and_limits(registry: Registry, chat_server: ChatServer) -> None:
    many(120)
    chat_server.latency = 0.2
    text = pipeline("a: {op: ask_once, in: words}", chat_server.model(limits={"concurrency": 10}))
    seconds = step(preview_text(text, registry, rows=20).forecast, "a").seconds
    assert seconds
    assert 100 * 0.2 / 10 <= seconds.expected < 100 * 0.4 / 10
    slower = text.replace('"concurrency": 10', '"concurrency": 10, "requests_per_minute": 60')
    assert step(foreseen(slower, registry)[1], "a").seconds == (100, 100, 100)


def test_earlier_versions_show_what_no_preview_has(registry: Registry, chat_server: ChatServer, in_process: None) -> None:
    words(*["ab", "cde", "skip", "bad", "f"] * 4)
    text = pipeline(
        "cut: {op: by_length, in: words, max_reject_ratio: 0.5}, said: {op: ask, in: cut.long}",
        chat_server.model(price={"input": 1.0}),
    )
    chat_server.reply = lambda body: completion(body["messages"][-1]["content"])
    run_text(text, registry)
    words(*[f"{number}{text}" for number in range(20) for text in ("ab", "cde", "skip", "bad", "f")])
    _, found = foreseen(text, registry)
    # Of each five rows, `cde` makes three, each of which makes two calls of ten tokens.
    rows = step(found, "said").rows
    assert rows
    assert rows.expected == pytest.approx(100 * 3 / 5)
    assert rows.low < 60 < rows.high
    assert step(found, "said").basis == "demo/said@1"
    calls = step(found, "said").calls
    assert calls
    assert calls.expected == pytest.approx(60 * 2 / 4)  # the same three letters four times


def test_a_damaged_file_is_ignored(registry: Registry, chat_server: ChatServer) -> None:
    many(30)
    text = pipeline("a: {op: ask_once, in: words}", chat_server.model())
    preview_text(text, registry, rows=5)
    file = registry.root / "previews" / "demo.json"
    content = json.loads(file.read_text())
    content["body"]["rows"] = 50
    file.write_text(json.dumps(content))
    assert foreseen(text, registry)[1] is None
    preview_text(text, registry, rows=5)
    assert not math.isnan(step(foreseen(text, registry)[1], "a").calls.expected)  # type: ignore[union-attr]


def test_rows_that_are_compared_with_each_other_make_the_forecast_too_high(registry: Registry, chat_server: ChatServer) -> None:
    words(*(f"w{number % 5}" for number in range(100)))
    text = pipeline("one: {op: distinct, in: words}, said: {op: ask_once, in: one}", chat_server.model())
    preview_text(text, registry, rows=20)
    _, found = foreseen(text, registry)
    assert found
    [note] = found.notes
    assert note.startswith("one: left out some of the previewed rows.")
    preview_text(text, registry, rows=100)
    _, found = foreseen(text, registry)
    assert found
    assert not found.notes
