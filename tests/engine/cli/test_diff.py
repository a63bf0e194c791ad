"""The output of `engine diff`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from registry import Model, Registry, StoredFile
from tests.registry.query.test_diff import Problem, commit, other, problems


@pytest.fixture
def run(registry: Registry) -> list[str]:
    """The words before the command's own arguments."""
    return ["--registry", str(registry.root), "diff"]


def printed(command: list[str], *arguments: str) -> list[str]:
    result = CliRunner().invoke(app, [*command, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_changed_rows_are_shown_from_their_first_difference(registry: Registry, run: list[str]) -> None:
    long = "Count to ten. " * 40
    commit(registry, [Problem(id="a", question=f"{long}One", answer=1), Problem(id="b", question="?"), *problems(5)])
    commit(registry, [*problems(7), Problem(id="a", question=f"{long}Two", answer=2), Problem(id="b", question="?")])
    lines = printed(run, "p/a@2", "--key", "id")
    assert lines[0].startswith("- p/a@1  dataset of Problem, 3 rows, made by step 'a' (test) in run ")
    assert lines[1].startswith("+ p/a@2  dataset of Problem, 3 rows")
    assert lines[3:] == [
        "fields: the same",
        "rows by id: 1 unchanged, 1 removed, 1 added, 1 changed",
        "  question: changed in 1 row",
        "  answer: changed in 1 row",
        "",
        "~ row 0, now 1, id a",
        "    question",
        "      - …" + long[-60:] + "One",
        "      + …" + long[-60:] + "Two",
        "    answer",
        "      - 1",
        "      + 2",
        "",
        "- row 2 of p/a@1",
        "    id: 5",
        "    question: What is 5 + 1?",
        "    answer: 6",
        "",
        "+ row 0 of p/a@2",
        "    id: 7",
        "    question: What is 7 + 1?",
        "    answer: 8",
    ]


def test_by_content_it_reports_copies_order_and_the_number_of_rows_not_shown(registry: Registry, run: list[str]) -> None:
    one, two, three = problems(1, 2, 3)
    commit(registry, [one, two])
    commit(registry, [two, one])
    commit(registry, [two, two, two, three])
    assert printed(run, "p/a@1", "p/a@2")[-1] == "rows by content: 2 unchanged, in another order (2 moved)"
    lines = printed(run, "p/a@1", "p/a@3", "-n", "1")
    assert "rows by content: 1 unchanged, 1 removed, 3 added" in lines
    assert "+ row 2 of p/a@3 (2 more copies)" in lines
    assert lines[-1] == "(1 more added; -n shows more)"
    assert printed(run, "p/a@2", "p/a@2")[-1].startswith("identical: both have the content id ")
    commit(registry, problems(8))
    assert "  --key id shows changed rows" in printed(run, "p/a@1", "p/a@4", "-n", "0")


def test_different_fields_are_shown_as_a_table_with_a_verdict(registry: Registry, run: list[str]) -> None:
    commit(registry, problems(1))
    wider = other(id=(str | None, ...), question=(str, ...), answer=(int, 0), persona=(str | None, None))
    commit(registry, [wider(**problems(1)[0].model_dump())])
    commit(registry, [other(question=(str, ...), answer=(str, ...))(question="?", answer="!")])
    lines = printed(run, "p/a@1", "p/a@2")
    assert [line.split() for line in lines if line.startswith(("field ", "persona "))] == [
        ["field", "p/a@1", "p/a@2"],
        ["persona", "-", "str?"],
    ]
    assert "fields: compatible: every step that reads p/a@1 can read p/a@2" in lines
    assert "  compared by the fields that both have with the same type: id, question, answer" in lines
    lines = printed(run, "p/a@1", "p/a@3")
    assert lines[lines.index("fields: incompatible") + 1 :][:2] == [
        "  field 'id' (str?) was removed",
        "  field 'answer' was int and is str",
    ]


def test_different_values_that_look_alike_are_shown_differently(registry: Registry, run: list[str]) -> None:
    record = other(score=(float, ...), text=(str | None, ...))
    commit(registry, [record(score=0.12345678, text="a\r\nb")])
    commit(registry, [record(score=0.12345679, text="a\nb")])
    commit(registry, [record(score=0.12345679, text=None)])
    lines = printed(run, "p/a@1", "p/a@2", "--key", "row")
    assert [line.strip() for line in lines if line.startswith("      ")] == [
        "- 0.12345678",
        "+ 0.12345679",
        r"- 'a\r\nb'",
        r"+ 'a\nb'",
    ]
    assert printed(run, "p/a@2", "p/a@3", "--key", "row")[-1] == "      + (null)"


def test_files_of_models_are_listed(registry: Registry, run: list[str]) -> None:
    for weights in "ab":
        files = [StoredFile(name="weights", sha256=weights * 64, bytes=1), StoredFile(name="card", sha256="c" * 64, bytes=1)]
        commit(registry, [Model(base_model="tiny", format="full", files=files)])
    assert printed(run, "p/a@2")[3:] == [
        "fields: the same",
        "files: 1 unchanged, 1 changed",
        "  ~ weights",
        "rows by row: 1 changed",
        "",
        "~ row 0",
    ]


def test_json_contains_everything(registry: Registry, run: list[str]) -> None:
    commit(registry, problems(1, 2))
    commit(registry, problems(2, 3))
    found = json.loads("\n".join(printed(run, "p/a@1", "p/a@2", "--json")))
    assert (found["old"]["version"], found["new"]["version"], found["identical"], found["files"]) == (1, 2, False, None)
    assert found["fields"]["relation"] == "same"
    assert found["rows"]["samples_added"] == [{"row": 1, "copies": 1, "values": problems(3)[0].model_dump()}]
    assert (found["rows"]["unchanged"], found["rows"]["added"], found["rows"]["removed"]) == (1, 1, 1)
