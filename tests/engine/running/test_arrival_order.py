"""In whatever order partitions finish, fail or are killed, the versions, their lineage, rejects and metrics are those of a run that
takes one step after another.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.jobs import partitions
from engine.jobs.partitions import Size
from engine.running import step_task
from registry import Registry
from tests.engine.run_pipelines import ask, run_text, words
from tests.engine.running.scripted import KilledError, Scripted

TEXTS = st.lists(st.sampled_from(["a", "b", "cd", "efg", "skip", "bad", "hijk", "l", "mn"]), min_size=1, max_size=40)

# Operators of several kinds: row by row, with rejects and two outputs, in batches, with an additional whole input.
ROW, SPLIT, BATCH, WHOLE, LOOKUP, MIXED = "shout", "by_length", "ordered", "distinct", "draw", "paired"


@st.composite
def graphs(draw: Any) -> dict[str, Any]:
    """The steps of a pipeline over the dataset `words`."""
    made, steps = ["words"], {}
    for number in range(draw(st.integers(2, 6))):
        name, op = f"s{number}", draw(st.sampled_from([ROW, ROW, SPLIT, BATCH, WHOLE, LOOKUP, MIXED]))
        source = st.sampled_from(made)
        one = draw(st.one_of(source, st.lists(source, min_size=1, max_size=3)))
        about: dict[str, Any] = {"op": op, "in": one, "max_reject_ratio": 1.0}
        if op == LOOKUP:
            about["in"] = {"word": one, "others": "words"}
        elif op == MIXED:
            about["in"] = {"left": one, "right": draw(source)}
        elif op == ROW:
            about["with"] = {"mark": draw(st.sampled_from("!?"))}
        steps[name] = about
        made += {SPLIT: [f"{name}.long", f"{name}.short"], MIXED: [f"{name}.pairs", f"{name}.lump"]}.get(op, [name])
    return steps


@pytest.fixture(autouse=True)
def _small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "COMPUTED", Size(2, 5, by_content=True))
    monkeypatch.setattr(partitions, "BATCHES", Size(2, 5, by_content=True))
    monkeypatch.setattr(step_task, "_ROWS_SEEN", 3)


def everything(registry: Registry) -> dict[str, Any]:
    """All facts about the newest versions, without the numbers of versions and runs."""
    newest = "version = (select max(version) from versions as v where v.name = {0}.name)"
    return {
        "versions": ask(
            registry, f"select name, content_id, rows from versions where {newest.format('versions')} order by all"
        ),
        "lineage": ask(registry, "select child, child_row, parent, parent_row from row_lineage order by all"),
        "rejects": ask(registry, "select name, parent_row, reason from rejects order by all"),
        "metrics": ask(registry, "select name, metric, slice, value from metrics order by all"),
        "accounts": ask(
            registry,
            "select distinct step, rows_in, rows_out, rejected from step_runs where outcome != 'failed' and outcome != 'stopped' order by all",
        ),
    }


def one_after_another(text: str, steps: list[str], folder: Path) -> dict[str, Any]:
    """The results if each step runs alone, after those before it, with its partitions in order."""
    registry = Registry(folder)
    for step in steps:
        assert run_text(text, registry, select=step, cluster=Scripted(lambda count: 0)).state == "succeeded"
    found = everything(registry)
    shutil.rmtree(folder)
    return found


def draws(examples: int) -> Any:
    """Draw pipelines and orders. Failing examples are not shrunk, because that takes longer than looking at them."""
    phases = [Phase.explicit, Phase.reuse, Phase.generate]
    drawn = settings(max_examples=examples, suppress_health_check=list(HealthCheck), phases=phases)
    return lambda test: drawn(given(steps=graphs(), texts=TEXTS, data=st.data())(test))


@draws(4)
def test_results_do_not_depend_on_the_order(
    workdir: Path, steps: dict[str, Any], texts: list[str], data: st.DataObject
) -> None:
    check_order(workdir, steps, texts, data)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@draws(400)
def test_results_do_not_depend_on_the_order_in_many_pipelines(
    workdir: Path, steps: dict[str, Any], texts: list[str], data: st.DataObject
) -> None:
    check_order(workdir, steps, texts, data)


def check_order(workdir: Path, steps: dict[str, Any], texts: list[str], data: st.DataObject) -> None:
    """Run a pipeline with incidents until it succeeds, and compare it with a sequential run."""
    shutil.rmtree(workdir / ".engine", ignore_errors=True)
    words(*texts)
    pipeline = {"name": "demo", "datasets": {"words": {"type": "Word", "path": "words.jsonl"}}, "steps": steps}
    text = json.dumps(pipeline)
    expected = one_after_another(text, [*steps], workdir / "sequential")

    registry = Registry(workdir / ".engine")
    patience = [20]

    def choose(count: int) -> int | None:
        chosen = data.draw(st.integers(-1 if patience[0] else 0, count - 1), label="next")
        patience[0] -= chosen < 0
        return None if chosen < 0 else chosen

    def fate() -> str | None:
        if not incidents[0]:
            return None
        what = data.draw(st.sampled_from(["fine"] * 8 + ["fails", "killed"]), label="fate")
        incidents[0] -= what != "fine"
        if what == "killed":
            raise KilledError
        return "an incident" if what == "fails" else None

    incidents = [2]
    for _ in range(4):
        busy = lambda: data.draw(st.booleans(), label="busy")  # noqa: E731
        try:
            result = run_text(text, registry, cluster=Scripted(choose, fate, room=data.draw(st.integers(1, 4)), busy=busy))
        except KilledError:
            continue
        if result.state == "succeeded":
            break
        assert result.error
        assert "an incident" in result.error
    assert result.state == "succeeded", result.error
    assert everything(registry) == expected


def test_independent_steps_run_at_once_and_rows_stream(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(40)])
    steps = "a: {op: shout, in: words}, b: {op: shout, in: a, with: {mark: '?'}}, c: {op: ordered, in: words}"
    cluster = Scripted(lambda count: 0)
    result = run_text(
        f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, steps: {{{steps}}}}}", registry, cluster=cluster
    )
    assert result.state == "succeeded"
    assert cluster.most_steps_at_once == 3
