"""The page of a run, active or ended: what each step did, why, and what it cost."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest

from engine.jobs.live import LiveStep, write_live
from engine.jobs.messages import OutputPart, Receipt, Usage
from engine.jobs.receipts import Receipts
from engine.page.facts.runs.now import logs, newest_rows
from engine.page.facts.runs.rejects import rejects
from engine.page.facts.runs.run import Part, run_facts
from engine.page.facts.runs.run_graph import run_graph
from registry import DataObject, ModelUsage, Registry, StepRun
from registry.errors import UnknownRunError
from tests.chat_server import ChatServer
from tests.engine.page.conftest import Visit
from tests.engine.page.crafted import BEGAN, HOSTILE, commit, make_hostile, make_trained, ran, reading
from tests.engine.run_pipelines import run_text, words


def test_a_step_has_what_it_read_and_made_and_its_models(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        run = run_facts(reader, trained)
    steps = {step.name: step for step in run.steps}
    assert (run.state, run.pipeline, run.cost_usd, run.total("rejected")) == ("succeeded", "demo", 7.25, 1)
    answers = steps["answers"]
    assert answers.inputs == (Part("demo/seeds", 1, "dataset", 8),)
    assert answers.outputs == (Part("demo/answers", 1, "dataset", 21),)
    assert [(use.model, use.calls, use.cost_usd) for use in answers.models] == [("gpt-5-mini", 21, 5.25)]
    assert (answers.notes, answers.why) == (("temperature is not sent",), ("it has never run",))
    assert [use.version for use in steps["after"].models] == [Part("demo/sft", 1, "model", 1)]
    assert steps["after"].inputs == (Part("demo/tests", 1, "dataset", 4),)


def test_the_graph_has_rows_losses_and_dollars_on_its_edges(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        graph = run_graph(run_facts(reader, trained))
    lines = {(edge.start, edge.end): edge.lines for edge in graph.edges}
    assert lines["part demo/seeds", "step answers"] == ("8 rows",)
    assert lines["step answers", "part demo/answers"] == ("21 rows", "1 rejected", "$5.25")
    assert lines["asked gpt-5-mini by answers", "step answers"] == ("21 calls", "3 from the journal", "$5.25")
    assert lines["step sft", "part demo/sft"] == ("1 row", "15 unused")
    assert ("part demo/sft", "step after") in lines
    kinds = {node.id: node.kind for node in graph.nodes}
    assert kinds["part demo/seeds"] == "source"
    assert kinds["part demo/sft"] == "model"
    assert kinds["part demo/calibrated"] == "calibration"


@pytest.mark.usefixtures("in_process")
def test_what_is_unchanged_is_muted(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "bb")
    text = f"{{name: demo, datasets: {{words: {{type: Word, path: words.jsonl}}}}, models: {{teacher: {chat_server.model()}}}, steps: {{said: {{op: ask_once, in: words}}, loud: {{op: shout, in: said, with: {{mark: MARK}}}}}}}}"
    run_text(text.replace("MARK", '"!"'), registry)
    second = run_text(text.replace("MARK", '"?"'), registry)
    with reading(registry) as reader:
        run = run_facts(reader, second.run_id)
    graph = run_graph(run)
    states = {node.id: node.state for node in graph.nodes}
    assert states["step said"] == states["asked test-model by said"] == "muted"
    assert states["step loud"] == "ran"
    muted = {(edge.start, edge.end): edge.muted for edge in graph.edges}
    assert muted["part demo/words", "step said"]
    assert not muted["part demo/said", "step loud"]
    assert run.steps[1].why == ("parameter mark: '!' -> '?'",)
    assert [each.run_id for each in run.others] != [second.run_id]


@pytest.mark.usefixtures("in_process")
def test_a_failed_run_shows_what_was_not_reached(registry: Registry) -> None:
    words("bad", "bad", "ok")
    text = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {cut: {op: by_length, in: words, max_reject_ratio: 0.1}, loud: {op: shout, in: cut.long}}}"
    failed = run_text(text, registry)
    assert failed.state == "failed"
    with reading(registry) as reader:
        run = run_facts(reader, failed.run_id)
        [found] = rejects(reader, run)
    assert [(step.name, step.outcome) for step in run.steps] == [("cut", "failed"), ("loud", "not reached")]
    assert run.steps[1].outputs == (Part("demo/loud", None),)
    assert run.steps[1].inputs == (Part("demo/cut.long", None),)
    states = {node.id: node.state for node in run_graph(run).nodes}
    assert (states["step cut"], states["step loud"], states["part demo/loud"]) == ("failed", "missing", "missing")
    assert (found.step, found.rejected, found.unreadable) == ("cut", 2, "")
    [reason] = found.reasons
    assert reason.count == 2
    assert [(each.name, each.version, each.row, each.text) for each in reason.examples] == [
        ("demo/words", 1, 0, "text: bad"),
        ("demo/words", 1, 1, "text: bad"),
    ]


@pytest.mark.usefixtures("in_process")
def test_examples_of_a_failed_step_are_rows_of_the_versions_that_it_read(registry: Registry, visit: Visit) -> None:
    Path("first.jsonl").write_text('{"text": "ok"}\n{"text": "fine"}\n')
    Path("second.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n')
    text = (
        "{name: demo, datasets: {first: {type: Word, path: first.jsonl}, second: {type: Word, path: second.jsonl}}, "
        "steps: {cut: {op: by_length, in: [first, second], max_reject_ratio: 0.1}}}"
    )
    failed = run_text(text, registry)
    assert failed.state == "failed"
    with reading(registry) as reader:
        [found] = rejects(reader, run_facts(reader, failed.run_id))
    [reason] = found.reasons
    assert [(each.name, each.version, each.row, each.text) for each in reason.examples] == [("demo/second", 1, 1, "text: bad")]
    assert 'href="/rows/1/demo/second@1"' in visit(registry.root).get(f"/runs/{failed.run_id}").text


def test_a_run_that_lasts_shows_its_progress_and_its_newest_rows(registry: Registry, visit: Visit) -> None:
    graph = [
        {
            "step": "said",
            "op": "ask",
            "inputs": {"word": ["demo/words"]},
            "outputs": ["demo/said"],
            "models": {"teacher": {"model": "m"}},
        },
        {"step": "loud", "op": "shout", "inputs": {"word": ["demo/said"]}, "outputs": ["demo/loud"], "models": {}},
    ]
    run_id = registry.catalog.begin_run("demo", {"params": {}, "graph": graph}, BEGAN)
    commit(registry, run_id, "words", [{"text": str(number)} for number in range(100)])
    stored = registry.store.put_table(pa.table({"text": ["old", HOSTILE]}))
    data = DataObject(sha256=stored.sha256, rows=2, bytes=stored.bytes)
    key = "a" * 64
    receipt = Receipt(digest="d1", rows=2, outputs={"out": OutputPart(data=data)}, produced=2, filtered=0, rejected=0)
    Receipts.of(registry, key).write(receipt)
    used = ModelUsage(calls=3, tokens_in=30, tokens_out=3, cost_usd=0.5)
    usage = Usage(**used.model_dump(), by_model={"m": used})
    running = LiveStep(
        step="said",
        op="ask",
        state="running",
        base_key=key,
        rows=100,
        done=40,
        total=100,
        rejected=1,
        usage=usage,
        note="waiting for 3 answers",
        started_at=BEGAN,
    )
    write_live(
        registry.catalog.runs.folder, run_id, (running, LiveStep(step="loud", op="shout", state="waiting", waited_for="said"))
    )
    with reading(registry) as reader:
        run = run_facts(reader, run_id)
        said, loud = run.steps
        assert run.state == "running"
        assert said.inputs == (Part("demo/words", 1, "dataset", 100),)
        assert said.progress
        assert (said.progress.done, said.progress.total) == (40, 100)
        assert (said.outcome, said.cost_usd, said.rejected) == ("running", 0.5, 1)
        assert (loud.outcome, loud.waited_for) == ("pending", "said")
        assert [(row.output, row.text.split(":")[0]) for row in newest_rows(reader, said)] == [("out", "text"), ("out", "text")]
        assert newest_rows(reader, said)[1].text == "text: old"
    client = visit(registry.root)
    part = client.get(f"/live/runs/{run_id}").text
    assert f'data-live="/live/runs/{run_id}"' in part
    assert "40 of 100, waiting for 3 answers" in part
    assert "<script>alert" not in part
    registry.catalog.end_run(run_id, "succeeded")
    assert "data-live" not in client.get(f"/live/runs/{run_id}").text


def test_a_run_whose_process_died_is_interrupted_and_nothing_is_written(registry: Registry) -> None:
    run_id = registry.catalog.begin_run("demo", {"params": {}}, BEGAN)
    registry.catalog.commit([], run_id, ran("said", "ask", 0, 1, rows_in=3))
    registry.catalog.runs.release(run_id)
    journal = registry.catalog.runs.path(run_id).read_bytes()
    files = {path.name for path in registry.catalog.runs.folder.iterdir()}
    with reading(registry) as reader:
        run = run_facts(reader, run_id)
    assert (run.state, run.seconds) == ("interrupted", None)
    assert registry.catalog.runs.path(run_id).read_bytes() == journal
    assert {path.name for path in registry.catalog.runs.folder.iterdir()} == files


def test_versions_that_were_removed_are_named_as_such(registry: Registry, trained: str, visit: Visit) -> None:
    gone = [registry.manifest(f"demo/{name}", 1).version_id for name in ("seeds", "answers")]
    registry.catalog.forget(gone)
    with reading(registry) as reader:
        run = run_facts(reader, trained)
        [told] = rejects(reader, run)
    assert run.steps[0].outputs == (Part("demo/answers", 1, removed=True),)
    assert "does not exist" in told.unreadable
    page = visit(registry.root).get(f"/runs/{trained}")
    assert page.status_code == 200
    assert "have been removed" in page.text


@pytest.mark.usefixtures("in_process")
def test_what_a_source_left_out_is_listed_with_its_reasons(registry: Registry, visit: Visit) -> None:
    Path("words.jsonl").write_text('{"text": "one"}\n{"text": [2]}\n{"text": null}\n{"text": "four"}\n')
    text = "{name: demo, datasets: {words: {type: Word, path: words.jsonl, on_error: skip}}, steps: {loud: {op: shout, in: words}}}"
    done = run_text(text, registry)
    assert done.state == "succeeded", done.error
    with reading(registry) as reader:
        [found] = rejects(reader, run_facts(reader, done.run_id))
    assert (found.step, found.rejected, [reason.count for reason in found.reasons]) == ("words", 2, [1, 1])
    page = visit(registry.root).get(f"/runs/{done.run_id}").text
    assert "words.jsonl:2" in page
    assert "examples" not in page


def test_rejects_have_reasons_and_examples(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        [found] = rejects(reader, run_facts(reader, trained))
    [reason] = found.reasons
    assert (found.step, found.rejected, reason.text, reason.count) == ("answers", 1, "the answer is empty", 1)
    [example] = reason.examples
    assert (example.name, example.version, example.row, example.text) == ("demo/seeds", 1, 7, "question: Question 7?")


def test_the_end_of_a_log_is_shown_and_links_are_not_followed(registry: Registry) -> None:
    run_id = registry.catalog.begin_run("demo", {"params": {}}, BEGAN)
    folder = registry.catalog.runs.folder
    (folder / f"{run_id}.log").write_text("".join(f"line {number}\n" for number in range(20_000)))
    (folder / f"{run_id}.teacher-0.log").write_text("served\n")
    (folder / f"{run_id}.other.log").symlink_to("/etc/hostname")
    with reading(registry) as reader:
        found = logs(reader, run_id)
    assert [(each.name, each.cut) for each in found] == [("run", True), ("teacher-0", False)]
    assert found[0].text.startswith("line ")
    assert found[0].text.endswith("line 19999\n")


def test_two_runs_are_compared(registry: Registry, visit: Visit) -> None:
    first, second = make_trained(registry), make_trained(registry)
    page = visit(registry.root).get(f"/runs/{second}", params={"with": first})
    assert page.status_code == 200
    assert "A: " in page.text
    assert visit(registry.root).get(f"/runs/{second}", params={"with": "no-such-run"}).status_code == 200


def test_an_old_run_without_times_or_graph_is_shown(registry: Registry, visit: Visit) -> None:
    run_id = registry.catalog.begin_run("demo", {}, BEGAN)
    commit(registry, run_id, "said", [{"text": "a"}], record=StepRun(step="said", op="ask", outcome="ran", seconds=3.0))
    registry.catalog.end_run(run_id, "succeeded")
    page = visit(registry.root).get(f"/runs/{run_id}")
    assert page.status_code == 200
    assert "not recorded" in page.text
    assert "Timeline" not in page.text


def test_an_unknown_run_is_reported(registry: Registry, trained: str, visit: Visit) -> None:
    with reading(registry) as reader, pytest.raises(UnknownRunError, match="there is no run"):
        run_facts(reader, "20200101-000000-abcdef")
    for path in ("/runs/20200101-000000-abcdef", "/runs/..%2f..%2fetc"):
        page = visit(registry.root).get(path)
        assert page.status_code == 404
        assert "Traceback" not in page.text


def test_markup_and_control_characters_are_text(registry: Registry, visit: Visit) -> None:
    run_id = make_hostile(registry)
    page = visit(registry.root).get(f"/runs/{run_id}")
    assert page.status_code == 200
    assert len(page.text) < 300_000
    for raw in ("<script>alert", "<u>step", "<img src", "\x1b", "\u202e"):
        assert raw not in page.text
    data = page.text.partition('<script type="application/json">')[2].partition("</script>")[0]
    assert {node["kind"] for node in json.loads(data)["nodes"]} == {"step", "source", "dataset"}


def test_the_journal_of_a_run_that_is_damaged_leaves_the_tables(registry: Registry, trained: str, visit: Visit) -> None:
    path: Path = registry.catalog.runs.path(trained)
    path.write_bytes(path.read_bytes().replace(b"gpt-5-mini", b"gpt-5-maxi"))
    with reading(registry) as reader:
        run = run_facts(reader, trained)
    assert [step.name for step in run.steps] == ["answers", "judged", "sft", "before", "after", "calibrated"]
    assert run.started_at == BEGAN.astimezone(dt.UTC).replace(tzinfo=None)
    assert visit(registry.root).get(f"/runs/{trained}").status_code == 200
