"""A run with several steps at once: failures, rejects, resources, other runs, models that steps share."""

from __future__ import annotations

import errno
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.execution.executor import Result
from engine.jobs import partitions
from engine.jobs.messages import Failure, Partition
from engine.jobs.partitions import Size
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.running import step_reporter, step_task
from engine.running.run import run
from registry import CorruptError, Registry
from tests.chat_server import ChatServer, error
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words
from tests.engine.running.scripted import Scripted
from tests.in_process import InProcess

HEAD = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "


@pytest.fixture(autouse=True)
def _small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "COMPUTED", Size(2, 4, by_content=False))
    monkeypatch.setattr(partitions, "BATCHES", Size(2, 4, by_content=False))
    monkeypatch.setattr(partitions, "CALLS", Size(2, 4, by_content=False))
    monkeypatch.setattr(step_task, "_ROWS_SEEN", 4)


def pipeline(steps: str, models: str = "") -> str:
    """A pipeline over words.jsonl."""
    return HEAD + (f"models: {{teacher: {models}}}, " if models else "") + f"steps: {{{steps}}}}}"


def in_turn(*steps: str) -> Any:
    """Choose the next partition of the steps in this order of preference."""

    def choose(running: list[tuple[str, Any]]) -> int:
        return next(number for step in steps for number, (name, _) in enumerate(running) if name == step)

    return choose


class Preferring(Scripted):
    """Finishes partitions of some steps before those of others."""

    def __init__(self, *steps: str, **options: Any) -> None:
        super().__init__(lambda count: in_turn(*steps)(self._running), **options)


def test_a_step_begins_with_the_first_rows_of_the_one_before(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(40)])
    cluster = Preferring("second", "first")
    result = run_text(
        pipeline("first: {op: shout, in: words}, second: {op: shout, in: first, with: {mark: '?'}}"), registry, cluster=cluster
    )
    assert result.state == "succeeded"
    assert cluster.most_steps_at_once == 2
    assert texts(registry, "demo/second") == [f"W{number}!?" for number in range(40)]
    [(waited,)] = ask(registry, "select waited_for from step_runs where step = 'second'")
    assert waited == "first"
    spans = dict(ask(registry, "select step, [started_at, ended_at] from step_runs"))
    assert spans["first"][0] < spans["second"][0] < spans["first"][1] < spans["second"][1]


def test_whole_inputs_are_barriers_and_the_plan_shows_them(registry: Registry) -> None:
    words("a", "b")
    text = pipeline(
        "first: {op: shout, in: words}, second: {op: shout, in: first}, once: {op: distinct, in: second}, "
        "drawn: {op: draw, in: {word: first, others: second}}"
    )
    Path("p.yaml").write_text(text)
    plan = make_plan(check(Path("p.yaml")), registry, select=set(), force=set())
    waits = {step.name: (step.waits_for, step.streams_from) for step in plan.steps}
    assert waits == {
        "first": ((), ()),
        "second": ((), ("first",)),
        "once": (("second",), ()),
        "drawn": (("second",), ("first",)),
    }


def test_rows_that_are_streamed_and_taken_whole_are_waited_for(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(40)])
    steps = "first: {op: shout, in: words}, drawn: {op: draw, in: {word: first, others: first}}"
    cluster = Preferring("drawn", "first")
    assert run_text(pipeline(steps), registry, cluster=cluster).state == "succeeded"
    assert cluster.most_steps_at_once == 1
    assert len(texts(registry, "demo/drawn")) == 40


class Returning(Scripted):
    """Returns the first partitions unfinished, as if their worker had been stopped."""

    returned = 2

    def next(self, seconds: float) -> Result | None:
        if self._running and self.returned:
            self.returned -= 1
            step, part = self._running.pop()
            return Result(step, Failure(digest=part.digest, message="stopped", stopped=True))
        return super().next(seconds)


def test_a_partition_that_was_not_run_is_run_again(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(20)])
    result = run_text(pipeline("loud: {op: shout, in: words}"), registry, cluster=Returning(lambda count: 0))
    assert result.state == "succeeded"
    assert texts(registry, "demo/loud") == [f"W{number}!" for number in range(20)]


def test_rejects_that_cannot_be_read_end_the_step(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    words(*["bad"] * 8)

    def unreadable(*_: object) -> None:
        raise CorruptError("an object is damaged")

    monkeypatch.setattr(step_reporter, "reasons_of", unreadable)
    result = run_text(pipeline("cut: {op: by_length, in: words}"), registry, cluster=Scripted(lambda count: 0))
    assert outcomes(result) == {"cut": "failed"}
    assert ask(registry, "select outcome from step_runs") == [("failed",)]


def test_a_failure_stops_what_depends_on_it_and_keeps_the_rest(registry: Registry) -> None:
    words(*["fine"] * 3, *[f"w{number}" for number in range(9)], "boom", *[f"x{number}" for number in range(20)])
    steps = (
        "bad: {op: broken, in: words}, after: {op: shout, in: bad}, never: {op: distinct, in: after}, "
        "other: {op: shout, in: words}, short: {op: distinct, in: words}"
    )
    result = run_text(pipeline(steps), registry, cluster=Preferring("short", "after", "bad", "other"))
    assert result.state == "failed"
    assert result.error is not None
    assert "step 'bad' failed" in result.error
    assert "on row 12 of 'word'" in result.error
    assert outcomes(result) == {"bad": "failed", "after": "stopped", "other": "stopped", "short": "ran"}
    # What was finished is not made again.
    words(*["fine"] * 3, *[f"w{number}" for number in range(9)], "good", *[f"x{number}" for number in range(20)])
    again = run_text(pipeline(steps), registry, cluster=Scripted(lambda count: 0))
    assert again.state == "succeeded"
    assert outcomes(again)["bad"] == outcomes(again)["after"] == outcomes(again)["other"] == "resumed"


def test_steps_whose_end_cannot_be_recorded_end_all_the_same(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry becomes read-only in the middle of a run."""
    words(*["fine"] * 3, "boom", *[f"x{number}" for number in range(20)])
    commit = registry.catalog.commit

    def read_only(drafts: Any, run_id: str, step: Any) -> Any:
        if step is None:
            return commit(drafts, run_id, step)
        raise OSError(errno.EROFS, "Read-only file system", "/reg")

    monkeypatch.setattr(registry.catalog, "commit", read_only)
    steps = "bad: {op: broken, in: words}, other: {op: shout, in: words}"
    result = run_text(pipeline(steps), registry, cluster=Preferring("bad", "other"))
    assert outcomes(result) == {"bad": "failed", "other": "stopped"}
    assert result.error is not None
    assert "on row 3 of 'word'" in result.error
    assert "step 'other' failed: Read-only file system: /reg" in result.error


def test_several_failures_are_all_reported(registry: Registry) -> None:
    words("boom", "fine")
    text = pipeline("one: {op: broken, in: words}, two: {op: broken, in: rest}")
    text = text.replace("words: {", "rest: {type: Word, path: rest.jsonl}, words: {")
    words("fine", "boom", file="rest.jsonl")
    result = run_text(text, registry, cluster=Scripted(lambda count: count - 1))
    assert outcomes(result) == {"one": "failed", "two": "failed"}
    assert result.error is not None
    assert ["step 'one' failed" in result.error, "step 'two' failed" in result.error] == [True, True]


class Listing(Preferring):
    """Lists the steps of the partitions that finished, and of those that began."""

    def __init__(self, *steps: str) -> None:
        super().__init__(*steps)
        self.events: list[str] = []

    def submit(self, step: str, part: Partition) -> None:
        self.events.append(f"{step} begins")
        super().submit(step, part)

    def next(self, seconds: float) -> Result | None:
        found = super().next(seconds)
        self.events += [f"{found.step} ends"] if found else []
        return found


def test_rows_are_passed_on_only_while_few_enough_are_rejected(registry: Registry) -> None:
    words(*["bad"] * 5, *[f"w{number}" for number in range(30)])
    steps = "cut: {op: by_length, in: words, max_reject_ratio: 0.3}, loud: {op: shout, in: cut.short}"
    cluster = Listing("loud", "cut")
    assert run_text(pipeline(steps), registry, cluster=cluster).state == "succeeded"
    # 5 of 16 rows are more than 30%, 5 of 20 are not: it may begin after 5 of 9 partitions, and does so within a turn or two.
    before = cluster.events[: cluster.events.index("loud begins")]
    assert 5 <= before.count("cut ends") < 8
    words(*[f"w{number}" for number in range(30)])
    cluster = Listing("loud", "cut")
    assert run_text(pipeline(steps), registry, cluster=cluster, force="cut").state == "succeeded"
    # Without rejects, after the first one.
    before = cluster.events[: cluster.events.index("loud begins")]
    assert 1 <= before.count("cut ends") < 4


def test_a_step_that_rejects_too_much_stops_the_steps_that_began_with_its_rows(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(12)], *["bad"] * 12)
    steps = "cut: {op: by_length, in: words, max_reject_ratio: 0.3}, loud: {op: shout, in: cut.short}"
    result = run_text(pipeline(steps), registry, cluster=Preferring("loud", "cut"))
    assert outcomes(result) == {"cut": "failed", "loud": "stopped"}
    assert result.error is not None
    # It has no model, so there are no answers to keep.
    assert result.error.endswith(
        "12 of 24 rows were rejected, and max_reject_ratio allows 30%: 12 x it is bad. Fix the cause, or raise the step's "
        "max_reject_ratio"
    )
    # With a higher ratio, only the partitions with rejects run again.
    again = run_text(pipeline(steps.replace("0.3", "0.5")), registry, cluster=Scripted(lambda count: 0))
    assert outcomes(again) == {"cut": "resumed", "loud": "resumed"}


def test_a_step_waits_for_resources_and_says_so(registry: Registry) -> None:
    words("a", "b")
    turns = itertools.count()
    cluster = Scripted(lambda count: 0, busy=lambda: next(turns) < 2)
    result = run_text(pipeline("one: {op: shout, in: words}, two: {op: ordered, in: words}"), registry, cluster=cluster)
    assert result.state == "succeeded"
    assert ask(registry, "select step, waited_for from step_runs order by step") == [("one", ""), ("two", "resources")]


def test_equal_rows_in_two_places_are_made_once(registry: Registry) -> None:
    words(*["a", "b", "c", "d"] * 3)
    result = run_text(pipeline("loud: {op: shout, in: [words, words]}"), registry, cluster=Scripted(lambda count: 0))
    assert result.state == "succeeded"
    assert texts(registry, "demo/loud") == ["A!", "B!", "C!", "D!"] * 6
    assert ask(registry, "select count(*), count(distinct parent_row) from row_lineage where child = 'demo/loud'") == [(24, 12)]
    assert len(list(registry.receipts.glob("*/" + "[0-9a-f]" * 64 + ".json"))) == 1


def test_steps_that_do_the_same_work_share_it(registry: Registry) -> None:
    words(*[f"w{number}" for number in range(20)])
    result = run_text(
        pipeline("one: {op: shout, in: words}, two: {op: shout, in: words}"), registry, cluster=Scripted(lambda count: 0)
    )
    assert outcomes(result) == {"one": "resumed", "two": "resumed"}
    assert texts(registry, "demo/one") == texts(registry, "demo/two")
    assert len(list(registry.receipts.glob("*/" + "[0-9a-f]" * 64 + ".json"))) == 5


def test_two_runs_at_once_make_no_partition_twice(registry: Registry, chat_server: ChatServer) -> None:
    words(*[f"w{number}" for number in range(40)])
    chat_server.latency = 0.02
    model = chat_server.model(limits={"concurrency": 4})
    steps = ("loud: {op: shout, in: asked}", "twice: {op: shout, in: asked, with: {mark: '?'}}")
    checked = []
    for number, step in enumerate(steps):
        file = Path(f"{number}.yaml")
        file.write_text(pipeline(f"asked: {{op: ask_once, in: words}}, {step}", model))
        checked.append(check(file))
    results = {}

    def run_one(number: int) -> None:
        observer = PlainProgress(Console(quiet=True))
        own = Registry(registry.root)
        results[number] = run(checked[number], own, observer, select=set(), force=set(), cluster=InProcess(room=2))

    threads = [threading.Thread(target=run_one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number].state for number in range(2)] == ["succeeded", "succeeded"]
    assert len(chat_server.requests) == len(set(chat_server.prompts)) == 40
    assert ask(registry, "select sum(calls) from step_runs where step = 'asked'") == [(40,)]
    assert ask(registry, "select count(*) from versions where name = 'demo/asked'") == [(1,)]


def test_steps_share_the_limits_of_a_model(registry: Registry, chat_server: ChatServer) -> None:
    words(*[f"w{number}" for number in range(24)])
    chat_server.latency = 0.05
    steps = "one: {op: ask_once, in: words}, two: {op: number_of, in: words, max_reject_ratio: 1.0}"
    result = run_text(pipeline(steps, chat_server.model(limits={"concurrency": 3})), registry, cluster=InProcess())
    assert result.state == "succeeded"
    assert len(chat_server.requests) == 48
    assert chat_server.most_in_flight == 3


def test_equal_requests_of_two_steps_are_sent_once(registry: Registry, chat_server: ChatServer) -> None:
    """Each step has its own client. The limits, which are shared, make equal requests wait for each other."""
    words(*[f"w{number}" for number in range(12)])
    chat_server.latency, chat_server.answer = 0.05, lambda prompt, seen: "7"
    steps = "one: {op: ask_once, in: words}, two: {op: ask_number, in: words}"
    result = run_text(pipeline(steps, chat_server.model(limits={"concurrency": 24})), registry, cluster=InProcess())
    assert result.state == "succeeded"
    assert len(chat_server.requests) == 12
    assert ask(registry, "select sum(calls), sum(calls_reused) from step_runs") == [(12, 12)]


def test_a_step_that_fails_leaves_the_requests_of_others_alone(registry: Registry, chat_server: ChatServer) -> None:
    words(*[f"w{number}" for number in range(12)])
    chat_server.latency = 0.05
    chat_server.answer = lambda prompt, seen: error(400, "no") if prompt.startswith("Number") else "fine"
    steps = "one: {op: ask_once, in: words}, two: {op: number_of, in: words}"
    result = run_text(pipeline(steps, chat_server.model(limits={"concurrency": 2})), registry, cluster=InProcess(room=1))
    assert outcomes(result)["two"] == "failed"
    answered = sum(prompt.startswith("Say") for prompt in chat_server.prompts)
    chat_server.requests.clear()
    chat_server.answer = lambda prompt, seen: "7"
    assert run_text(pipeline(steps, chat_server.model()), registry, cluster=InProcess()).state == "succeeded"
    assert sum(prompt.startswith("Say") for prompt in chat_server.prompts) == 12 - answered


def test_a_local_model_is_loaded_once_for_all_steps(
    registry: Registry, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.llm.local import transformers

    loaded = []
    load = transformers.load
    monkeypatch.setattr(transformers, "load", lambda *arguments: loaded.append(arguments) or load(*arguments))
    words("a", "b", "c")
    model = json.dumps({"provider": "transformers", "model": str(tiny_model), "max_tokens": 2})
    steps = "one: {op: ask_once, in: words}, two: {op: number_of, in: words, max_reject_ratio: 1.0, models: {teacher: warm}}"
    text = pipeline(steps, model).replace("models: {teacher", f'models: {{warm: {model[:-1]}, "temperature": 1.5}}, teacher', 1)
    assert run_text(text, registry, cluster=InProcess()).state == "succeeded"
    assert len(loaded) == 1
