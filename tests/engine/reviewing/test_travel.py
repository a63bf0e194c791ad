"""Decisions are exported to files and imported again: all of them, or none, with every mistake named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.errors import PipelineError
from registry import Registry
from tests.engine.run_pipelines import ask, run_text
from tests.operators.generic.steps import made, rows, step
from tests.operators.generic.test_review import ROWS, decide, ids

REVIEW = "demo/step"


def command(*words: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, ["--registry", ".engine", "reviews", *words])
    if code and isinstance(result.exception, PipelineError):
        return str(result.exception)
    assert result.exit_code == code, result.output
    assert not result.exception or code, result.exception
    return result.output


def lines(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def write(file: str, given: list[dict[str, Any]]) -> None:
    Path(file).write_text("".join(json.dumps(each) + "\n" for each in given))


@pytest.fixture
def waiting(registry: Registry, in_process: None) -> str:
    """A pipeline that waits for the review of five rows."""
    rows(*ROWS)
    text = step("review", labels=["easy", "hard"], fields=["question", "n"])
    assert run_text(text, registry).state == "waiting"
    return text


def test_a_review_without_a_browser(registry: Registry, waiting: str) -> None:
    """Export, fill in, import, run."""
    assert "waits for 5 more" in command("ls")
    assert "0 decisions, and 5 rows to fill in" in command("export", REVIEW, "out.jsonl")
    given = lines("out.jsonl")
    assert [each["content"]["n"] for each in given] == [0, 2, 4, 6, 8]
    assert given[0]["seen_at"] == "demo/rows@1 row 0"
    for each in given[:3]:
        each["verdict"] = "approve"
    given[3] |= {"verdict": "edit", "fields": {"n": 7}, "labels": ["hard"], "reviewer": "Ben"}
    write("out.jsonl", given)
    said = command("import", "out.jsonl", "--reviewer", "Ann")
    assert "4 decisions imported, 1 without a verdict. 4 of 5 rows decided, 1 more needed" in said
    # The same file again changes nothing.
    assert "0 decisions imported, 4 already known" in command("import", "out.jsonl", "--reviewer", "Ann")
    assert run_text(waiting, registry).state == "waiting"
    write("last.jsonl", [{"queue": REVIEW, "row": given[4]["row"], "reviewer": "Ann", "verdict": "reject", "reason": "no"}])
    said = command("import", "last.jsonl")
    assert "To continue:" in said
    assert "run p.yaml" in said
    assert run_text(waiting, registry).state == "succeeded"
    assert made(registry, "n") == [(0,), (2,), (4,), (7,)]
    [summary] = json.loads(command("ls", "--json"))
    assert (summary["review"], summary["missing"], summary["decisions"]) == (REVIEW, 0, 5)
    # The exported decisions can be imported, also into a copy of the registry.
    command("export", REVIEW, "all.jsonl")
    before = registry.reviews.decisions()
    for path in (registry.root / "reviews").rglob("*.json"):
        if path.name != "queue.json":
            path.unlink()
    command("import", "all.jsonl")
    assert Registry(registry.root).reviews.decisions() == before


def test_every_mistake_is_named_with_its_line_and_nothing_is_stored(registry: Registry, waiting: str) -> None:
    first, second, *_ = ids(registry)
    good = {"queue": REVIEW, "row": first, "reviewer": "Ann", "verdict": "approve"}
    wrong: list[dict[str, Any]] = [
        {**good, "verdict": "aprove"},
        {**good, "row": "f" * 64},
        {**good, "row": "xyz"},
        {**good, "verdict": "edit", "fields": {"n": "many"}},
        {**good, "verdict": "edit", "fields": {"persona": "a poet"}},
        {**good, "verdict": "edit"},
        {**good, "fields": {"n": 3}},
        {**good, "labels": ["eazy"]},
        {**good, "labels": ["easy", "hard"]},
        {**good, "reviewer": None},
        {**good, "at": "yesterday"},
        {**good, "lables": ["easy"]},
    ]
    write("bad.jsonl", [good, *wrong])
    with Path("bad.jsonl").open("a") as file:
        file.write('{"queue": \n')
    said = command("import", "bad.jsonl", code=1)
    for number, text in enumerate(
        [
            "there is no verdict 'aprove'",
            "no version of demo/rows has the row ffff",
            "row: must be the id of a row, 64 hex digits",
            "fields.n: must be a whole number",
            "fields: field 'persona' may not be edited",
            "fields: the verdict edit needs new values",
            "fields: only the verdict edit has new values",
            "labels: there is no label 'eazy'",
            "labels: a row gets one label, not 2",
            "the reviewer is missing",
            "at: must be a valid datetime",
            "a decision has no key 'lables'",
            "this line is not JSON",
        ],
        2,
    ):
        assert any(line.startswith(f"bad.jsonl:{number}:") and text in line for line in said.splitlines()), (number, said)
    assert registry.reviews.decisions() == []
    write("other.jsonl", [good, {**good, "queue": "demo/other", "row": second}])
    assert "other.jsonl:2:1: this decision belongs to demo/other, not to demo/step" in command("import", "other.jsonl", code=1)
    write("unknown.jsonl", [{**good, "queue": "demo/stop"}])
    assert "there is no review 'demo/stop'" in command("import", "unknown.jsonl", code=1)
    assert registry.reviews.decisions() == []


def test_decisions_about_rows_of_an_earlier_version_are_kept(registry: Registry, waiting: str) -> None:
    command("export", REVIEW, "out.jsonl")
    given = [{**each, "verdict": "approve", "reviewer": "Ann"} for each in lines("out.jsonl")]
    write("out.jsonl", given)
    rows(*ROWS[1:], {"question": "new", "persona": None, "n": 1})
    run_text(waiting, registry)
    assert "5 decisions imported, 1 about rows that are not in the review now" in command("import", "out.jsonl")
    rows(*ROWS)
    assert run_text(waiting, registry).state == "succeeded"


def test_label_studio_and_back(registry: Registry, waiting: str) -> None:
    found = ids(registry)
    decide(registry, found[0], "edit", fields={"n": 1}, labels=["easy"], reason="off by one")
    assert "5 tasks" in command("export", REVIEW, "tasks.json", "--to", "label-studio")
    tasks = json.loads(Path("tasks.json").read_text())
    assert tasks[1]["data"] == {
        "question": "What is 1 + 1?",
        "persona": "",
        "n": "2",
        "engine_row": found[1],
        "engine_queue": REVIEW,
    }
    [prediction] = tasks[0]["predictions"]
    assert prediction["model_version"] == "Ann"
    assert {each["from_name"]: each["value"] for each in prediction["result"]} == {
        "verdict": {"choices": ["edit"]},
        "label": {"choices": ["easy"]},
        "reason": {"text": ["off by one"]},
        "new_n": {"text": ["1"]},
    }
    interface = Path("tasks.xml").read_text()
    for part in ('<Text name="field_question" value="$question"/>', '<Choice value="easy" hotkey="1"/>', 'name="new_n"'):
        assert part in interface
    assert "new_persona" not in interface

    def annotation(verdict: str, *more: tuple[str, str, Any], **about: Any) -> dict[str, Any]:
        results = [{"from_name": "verdict", "to_name": "field_question", "type": "choices", "value": {"choices": [verdict]}}]
        results += [{"from_name": name, "type": kind, "value": {kind: value}} for name, kind, value in more]
        return {"id": 7, "result": results, "completed_by": 3, "updated_at": "2025-06-01T12:00:00Z", **about}

    tasks[1]["annotations"] = [annotation("approve", ("label", "choices", ["hard"]))]
    tasks[2]["annotations"] = [
        annotation(
            "approve", ("new_n", "text", ["40"]), ("new_question", "text", ["What is 2 + 2?"]), completed_by={"email": "b@x"}
        ),
        annotation("reject", ("reason", "text", ["dull"]), completed_by={"email": "c@x"}),
    ]
    tasks[3]["annotations"] = [annotation("approve", was_cancelled=True)]
    Path("export.json").write_text(json.dumps(tasks))
    said = command("import", "export.json", "--from", "label-studio")
    assert "4 decisions imported, 2 without a verdict" in said
    view = "select row, reviewer, verdict, fields->>'n', labels, reason from reviews order by row, reviewer"
    assert ask(registry, view) == [
        (1, "label-studio user 3", "approve", None, ["hard"], None),
        (2, "b@x", "edit", "40", [], None),
        (2, "c@x", "reject", None, [], "dull"),
        (3, "label-studio user 3", "skip", None, [], None),
        (None, "Ann", "edit", "1", ["easy"], "off by one"),
    ]
    tasks[1]["annotations"] = [annotation("maybe")]
    tasks[2]["annotations"] = [annotation("edit", ("new_n", "text", ["four"]))]
    Path("export.json").write_text(json.dumps(tasks, indent=1))
    said = command("import", "export.json", "--from", "label-studio", code=1)
    starts = [n for n, line in enumerate(Path("export.json").read_text().splitlines(), 1) if line == " {"]
    assert f"export.json:{starts[1]}:2: there is no verdict 'maybe'" in said
    assert f"export.json:{starts[2]}:2: fields.n: the new value is not JSON for int?" in said
    for text, says in (("{}", "this is not a list of tasks"), ("[{]", "not an export of Label Studio")):
        Path("export.json").write_text(text)
        assert says in command("import", "export.json", "--from", "label-studio", code=1)
    Path("export.json").write_text('[{"data": {"text": "x"}}]')
    assert "the task has no engine_row in its data" in command("import", "export.json", "--from", "label-studio", code=1)


def test_a_version_is_exported_as_tasks(registry: Registry, waiting: str) -> None:
    decide(registry, ids(registry)[2], "reject", reason="no")
    result = CliRunner().invoke(app, ["--registry", ".engine", "export", "demo/rows@1", "out", "--to", "label-studio"])
    assert result.exit_code == 0, result.output
    tasks = json.loads(Path("out/tasks.json").read_text())
    assert [len(each["predictions"]) for each in tasks] == [0, 0, 1, 0, 0]
    assert {each["data"]["engine_queue"] for each in tasks} == {REVIEW}
    assert "--from label-studio" in Path("out/README.md").read_text()
    assert Path("out/interface.xml").exists()


def test_files_are_not_overwritten(registry: Registry, waiting: str) -> None:
    command("export", REVIEW, "out.jsonl")
    assert "out.jsonl exists already" in command("export", REVIEW, "out.jsonl", code=1)
    command("export", REVIEW, "out.jsonl", "--overwrite")
    assert "there is no file missing.jsonl" in command("import", "missing.jsonl", code=1)
    assert "did you mean 'demo/step'?" in command("export", "demo/stop", "x.jsonl", code=1)


def test_lineage_says_who_decided(registry: Registry, waiting: str) -> None:
    for row in ids(registry):
        decide(registry, row, "edit", fields={"n": 1})
    assert run_text(waiting, registry).state == "succeeded"
    result = CliRunner().invoke(app, ["--registry", ".engine", "lineage", "demo/step", "--row", "0"])
    assert result.exit_code == 0, result.output
    assert "demo/step: edit of n by Ann, " in result.output
    told = json.loads(CliRunner().invoke(app, ["--registry", ".engine", "lineage", "demo/step", "--row", "0", "--json"]).output)
    assert [len(each["decisions"]) for each in told["up"]["rows"]] == [0, 1]
