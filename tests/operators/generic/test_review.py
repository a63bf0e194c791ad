"""The operator `review`: which rows wait, what it yields, and how that is decided."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.execution.in_process import InProcess
from engine.pipeline.check import check
from engine.previewing.preview import preview
from engine.running.run import run
from engine.testing import run_operator
from engine.upkeep import gc
from operators.generic.review import review
from registry import Decision, Record, Registry
from registry.records.content import row_id
from tests.engine.run_pipelines import ask, outcomes, run_text
from tests.operators.generic.steps import made, metrics, reasons, rows, step, wrong

ROWS = [{"question": f"What is {n} + {n}?", "persona": None, "n": 2 * n} for n in range(5)]
PIPELINE_NAME = "demo/step"


def ids(registry: Registry, target: str = "demo/rows") -> list[str]:
    """The ids of the rows of a version."""
    from registry.records.content import row_ids

    with registry.session() as session:
        name, version = session.resolve(target) if "@" in target else (target, session._numbers(target)[-1])
        return list(row_ids(session.table(f"{name}@{version}")))


def decide(registry: Registry, row: str, verdict: str = "approve", reviewer: str = "Ann", **more: Any) -> Decision:
    """Store a decision."""
    given: Mapping[str, Any] = {"queue": PIPELINE_NAME, "at": dt.datetime.now(dt.UTC), **more}
    made = Decision.model_validate({"row": row, "verdict": verdict, "reviewer": reviewer, **given})
    registry.reviews.add([made])
    return made


def test_a_run_waits_until_all_rows_are_decided(registry: Registry, in_process: None) -> None:
    rows(*ROWS)
    text = step("review", all=True)
    first = run_text(text, registry)
    assert first.state == "waiting"
    assert outcomes(first) == {"step": "waiting"}
    review = first.steps[0].review
    assert review
    assert review.progress.count() == {"rows": 5, "decided": 0, "needed": 5, "missing": 5}
    queue = registry.reviews.queue(PIPELINE_NAME)
    assert queue
    assert [str(each) for each in queue.inputs] == ["demo/rows@1"]
    assert queue.task.fields == ("question", "persona", "n")
    found = ids(registry)
    decide(registry, found[0])
    decide(registry, found[1], "reject", reason="too easy")
    decide(registry, found[2], "edit", fields={"question": "What is two and two?"})
    decide(registry, found[3], "skip")
    second = run_text(text, registry)
    assert second.state == "waiting"
    assert second.steps[0].review
    assert second.steps[0].review.progress.missing == 2
    decide(registry, found[3], "approve", "Ben")
    decide(registry, found[4], "reject")
    third = run_text(text, registry)
    assert third.state == "succeeded", third.error
    assert made(registry, "question") == [("What is 0 + 0?",), ("What is two and two?",), ("What is 3 + 3?",)]
    assert reasons(registry) == {1: "too easy", 4: "rejected by Ann"}
    counted = {name: value for name, value in metrics(registry).items() if name.startswith("rows")}
    assert counted == {"rows approved": 2, "rows edited": 1, "rows rejected": 2, "rows undecided": 0}
    [(before, after)] = ask(registry, "select state, error from runs order by started_at limit 1")
    assert (before, after) == ("waiting", None)
    [(row, parent)] = ask(registry, "select child_row, parent_row from row_lineage where child_row = 1")
    assert (row, parent) == (1, 2)
    assert outcomes(run_text(text, registry)) == {"step": "hit"}


def test_enough_rows_go_on_and_the_others_are_counted(registry: Registry, in_process: None) -> None:
    rows(*ROWS)
    text = step("review", n=2)
    assert run_text(text, registry).state == "waiting"
    found = ids(registry)
    for each in found[:3]:
        decide(registry, each)
    result = run_text(text, registry)
    assert result.state == "succeeded"
    record = result.steps[0].record
    assert (record.rows_in, record.rows_out, record.filtered, record.rejected) == (5, 3, 2, 0)
    assert metrics(registry)["rows undecided"] == 2


def test_share_is_of_the_different_rows(registry: Registry, in_process: None) -> None:
    rows(*ROWS, *ROWS)
    text = step("review", share=0.5)
    first = run_text(text, registry)
    assert first.steps[0].review
    assert first.steps[0].review.progress.count() == {"rows": 5, "decided": 0, "needed": 3, "missing": 3}
    for each in ids(registry)[:3]:
        decide(registry, each)
    assert run_text(text, registry).state == "succeeded"
    # Equal rows share a decision.
    assert len(made(registry, "question")) == 6


def test_a_new_decision_makes_no_stale_hit(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:1])
    text = step("review", all=True)
    run_text(text, registry)
    [row] = ids(registry)
    decide(registry, row)
    assert run_text(text, registry).state == "succeeded"
    decide(registry, row, "reject", reason="on second thoughts")
    again = run_text(text, registry)
    assert outcomes(again) == {"step": "ran"}
    assert again.steps[0].record.rejected == 1
    decide(registry, row, "skip")
    assert run_text(text, registry).state == "waiting"


def test_an_upstream_change_keeps_the_decisions_of_unchanged_rows(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:3])
    text = step("review", all=True)
    run_text(text, registry)
    found = ids(registry)
    decide(registry, found[0])
    decide(registry, found[1])
    decide(registry, found[2], "edit", fields={"n": 7})
    assert run_text(text, registry).state == "succeeded"
    rows(ROWS[4], ROWS[1], ROWS[0], {**ROWS[2], "persona": "a poet"})
    result = run_text(text, registry)
    assert result.state == "waiting"
    assert result.steps[0].review
    assert result.steps[0].review.progress.count() == {"rows": 4, "decided": 2, "needed": 4, "missing": 2}


def test_labels_go_into_a_field(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:3])
    text = step("review", labels=["good", "bad"], label_field="quality")
    run_text(text, registry)
    found = ids(registry)
    decide(registry, found[0], labels=["good"])
    decide(registry, found[1], labels=["bad"])
    # Without a label, or with one that the review does not have, it does not count.
    decide(registry, found[2])
    assert run_text(text, registry).state == "waiting"
    decide(registry, found[2], labels=["ugly"])
    waiting = run_text(text, registry)
    assert waiting.state == "waiting"
    assert waiting.steps[0].review
    [why] = waiting.steps[0].review.progress.mismatches.values()
    assert why.startswith("labels: there is no label 'ugly'")
    decide(registry, found[2], "reject")
    assert run_text(text, registry).state == "succeeded"
    assert made(registry, "question, quality") == [("What is 0 + 0?", "good"), ("What is 1 + 1?", "bad")]


def test_several_labels_make_a_list(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = step("review", labels=["a", "b", "c"], choice="multiple", label_field="topics")
    run_text(text, registry)
    first, second = ids(registry)
    decide(registry, first, labels=["c", "a"])
    decide(registry, second)
    assert run_text(text, registry).state == "succeeded"
    assert made(registry, "topics") == [(["a", "c"],), ([],)]


def test_several_reviewers_need_a_majority(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = step("review", reviewers=2)
    run_text(text, registry)
    first, second = ids(registry)
    for name in ("Ann", "Ben"):
        decide(registry, first, reviewer=name)
    decide(registry, second, "approve", "Ann")
    assert run_text(text, registry).state == "waiting"
    decide(registry, second, "reject", "Ben", reason="no")
    tied = run_text(text, registry)
    assert tied.steps[0].review
    assert tied.steps[0].review.progress.missing == 1
    decide(registry, second, "reject", "Cem", reason="never")
    assert run_text(text, registry).state == "succeeded"
    assert reasons(registry) == {1: "never; no"}
    # Units: (approve, approve), (approve, reject, reject).
    assert metrics(registry)["krippendorff_alpha verdict"] == pytest.approx(1 - 4 * 2 / 12)


def test_an_edit_that_does_not_fit_any_more_is_asked_again(registry: Registry, in_process: None) -> None:
    rows({"question": "q", "persona": None, "n": 1})
    text = step("review", all=True)
    run_text(text, registry)
    [row] = ids(registry)
    decide(registry, row, "edit", fields={"n": "many"})
    result = run_text(text, registry)
    assert result.state == "waiting"
    assert result.steps[0].review
    [why] = result.steps[0].review.progress.mismatches.values()
    assert why.startswith("fields.n: ")


def test_other_branches_finish(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = """
        name: demo
        datasets: {rows: {path: rows.jsonl}}
        steps:
          step: {op: review, in: rows}
          after: {op: map, in: step, with: {set: {m: n + 2}}}
          beside: {op: map, in: rows, with: {set: {m: n + 1}}}
    """
    result = run_text(text, registry)
    assert result.state == "waiting"
    assert outcomes(result) == {"step": "waiting", "beside": "ran"}
    for each in ids(registry):
        decide(registry, each)
    result = run_text(text, registry)
    assert outcomes(result) == {"step": "ran", "after": "ran", "beside": "hit"}


def test_a_pipeline_may_say_how_many_rejects_are_too_many(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = step("review", all=True).replace("max_reject_ratio: 1", "max_reject_ratio: 0.4")
    run_text(text, registry)
    for each in ids(registry):
        decide(registry, each, "reject", reason="bad")
    failed = run_text(text, registry)
    assert failed.state == "failed"
    assert "2 of 2 rows were rejected" in (failed.error or "")
    assert run_text(text.replace("    max_reject_ratio: 0.4\n", ""), registry).state == "succeeded"


def test_decisions_that_come_while_the_step_runs_are_for_the_next_run(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = step("review", n=1)
    run_text(text, registry)
    first, second = ids(registry)
    decide(registry, first)

    class Late(PlainProgress):
        def step_started(self, step: str, op: str, rows: int, done: int) -> None:
            decide(registry, second, "reject")

    pipeline = check(Path("p.yaml"))
    cluster = InProcess(registry=registry)
    result = run(pipeline, registry, Late(Console(quiet=True)), select=set(), force=set(), cluster=cluster)
    assert result.state == "succeeded", result.error
    assert (result.steps[0].record.rows_out, result.steps[0].record.rejected) == (1, 0)
    assert run_text(text, registry).steps[0].record.rejected == 1


def test_content_ids_do_not_depend_on_who_was_first(registry: Registry, in_process: None, tmp_path: Path) -> None:
    rows(*ROWS)
    text = step("review", reviewers=2, labels=["a", "b"], label_field="kind")
    other = Registry(tmp_path / "other")
    for where in (registry, other):
        run_text(text, where)
    found = ids(registry)
    given = [
        (row, who, verdict, label) for row in found for who, verdict, label in (("Ann", "approve", "a"), ("Ben", "reject", ""))
    ]
    given += [(row, "Cem", "edit", "b") for row in found[:2]] + [(row, "Dan", "edit", "b") for row in found[:2]]
    given += [(row, "Cem", "reject", "") for row in found[2:]]
    for where, order in ((registry, given), (other, given[::-1])):
        for row, who, verdict, label in order:
            fields = {"n": 9} if verdict == "edit" else {}
            decide(where, row, verdict, who, labels=[label] if label else [], fields=fields)
        assert run_text(text, where).state == "succeeded"
    query = "select content_id, v.rows from versions v where name = 'demo/step'"
    assert ask(registry, query) == ask(other, query)
    assert made(registry, "n, kind") == [(9, "b"), (9, "b")]


def test_variants_have_reviews_of_their_own(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = """
        name: demo
        params: {most: 1}
        matrix: {most: [0, 9]}
        datasets: {rows: {path: rows.jsonl}}
        steps:
          few: {op: filter, in: rows, with: {where: "n <= ${params.most}"}}
          checked: {op: review, in: few.kept, with: {all: true}}
          all: {op: review, in: rows, with: {all: true}}
          after: {op: map, in: checked, with: {set: {m: n + 3}}}
    """
    result = run_text(text, registry)
    assert result.state == "waiting"
    queues = {each.name: each.step for each in registry.reviews.queues()}
    assert queues == {"demo/all": "all", "demo/most=0/checked": "most=0/checked", "demo/most=9/checked": "most=9/checked"}
    first, second = ids(registry)
    decide(registry, first, queue="demo/most=0/checked")
    again = run_text(text, registry)
    assert outcomes(again)["most=0/after"] == "ran"
    assert outcomes(again)["most=9/checked"] == "waiting"
    assert {step.review.queue for step in again.steps if step.review} == {"demo/all", "demo/most=9/checked"}
    for queue in ("demo/most=9/checked", "demo/all"):
        decide(registry, first, queue=queue)
        decide(registry, second, queue=queue)
    assert run_text(text, registry).state == "succeeded"


def test_a_preview_shows_what_would_wait(registry: Registry, in_process: None) -> None:
    rows(*ROWS)
    text = """
        name: demo
        datasets: {rows: {path: rows.jsonl}}
        steps:
          step: {op: review, in: rows, with: {n: 2}}
          after: {op: map, in: step, with: {set: {m: n + 3}}}
          last: {op: map, in: after, with: {set: {k: n + 3}}}
    """
    Path("p.yaml").write_text(text)
    shown = preview(check(Path("p.yaml")), registry, PlainProgress(Console(quiet=True)), select=set(), rows=3)
    states = {each.name: (each.state, each.why) for each in shown.steps}
    assert states == {
        "step": ("waits", "it would wait until people have reviewed 2 of 3 rows"),
        "after": ("not reached", "step waits for reviewers"),
        "last": ("not reached", "step waits for reviewers"),
    }
    assert [row.input["question"] for row in shown.steps[0].rows if row.input]
    assert len(shown.steps[0].rows) == 3
    assert registry.reviews.queues() == []
    run_text(text, registry)
    for each in ids(registry):
        decide(registry, each)
    shown = preview(check(Path("p.yaml")), registry, PlainProgress(Console(quiet=True)), select=set(), rows=3)
    assert [(each.state, each.rows_out) for each in shown.steps] == [("previewed", {"out": 3})] * 3


def test_collection_keeps_what_a_review_asks_about(registry: Registry, in_process: None) -> None:
    rows(*ROWS[:2])
    text = step("review", all=True)
    run_text(text, registry)
    # Another pipeline of the same name makes a newer version of the rows.
    rows(*ROWS[2:])
    run_text(text.replace("op: review", "op: map").replace("all: true", "set: {m: n}"), registry)
    assert gc.collect(registry, dt.timedelta(0)).versions == ()
    queue = registry.reviews.queue(PIPELINE_NAME)
    assert queue
    assert registry.manifest("demo/rows", queue.inputs[0].version).rows == 2


def test_an_operator_of_ones_own_is_tested_with_decisions() -> None:
    class Word(Record):
        text: str

    words = [Word(text="a"), Word(text="b")]
    decision = Decision.model_validate(
        {
            "queue": "x",
            "row": row_id(words[1]),
            "reviewer": "Ann",
            "at": "2025-06-01T12:00:00Z",
            "verdict": "reject",
            "reason": "no",
        }
    )
    done = run_operator(review, words, with_={"n": 1}, decisions=[decision])
    assert done.rows == []
    assert [(each.row, each.reason) for each in done.rejects] == [(words[1], "no")]
    assert done.filtered == 1


def test_check_reports_mistakes(workdir: Path) -> None:
    assert wrong("review", n=1, share=0.5) == {"0.5": "review: n and share: give one of n, share and all"}
    assert wrong("review", all=True, n=1) == {"true": "review: n and all: give one of n, share and all"}
    assert wrong("review", labels=["a", "a", " "]) == {
        '"a", " "]': "review: labels: 'a' is listed twice",
        '" "]': "review: labels: ' ' cannot be a label; give a word or a few",
    }
    [text] = wrong("review", fields=["qestion"]).values()
    assert text == "review: fields: Row has no field 'qestion'; did you mean 'question'?"
    assert wrong("review", label_field="n") == {'"n"': "review: label_field: there are no labels; give `labels`"}
    [text] = wrong("review", labels=["a"], label_field="n").values()
    assert text == "review: label_field: field 'n' is int?, which does not take all labels; expected a"
    [text] = wrong("review", choice="multiple").values()
    assert text == "review: choice: there are no labels to choose from; give `labels`"
