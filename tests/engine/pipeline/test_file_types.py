"""Record types that a pipeline file describes, and those taken from rows."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from registry.records.schema import fields_of_type
from tests.engine.run_pipelines import ask, run_text

TICKETS = [
    {"text": "It burns", "urgency": "high", "tags": ["fire"], "by": {"name": "Ann"}},
    {"text": "Thanks", "urgency": "low", "tags": [], "score": 1, "by": {"name": "Bob", "age": 3}},
]

PIPELINE = """
    name: demo
    types:
      Person: {name: str, age: "int?"}
      Ticket:
        text: str
        urgency: low | medium | high
        tags: list[str]
        score: float?
        by: {type: Person, description: who wrote it}
      Reply: {extends: Ticket, reply: {type: str, description: what to answer}}
    datasets: {tickets: {type: Ticket, path: tickets.jsonl}}
    steps:
      once: {op: unique, in: tickets, with: {of: text}}
    """


def write(rows: list[object], name: str = "tickets.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def problems_of(text: str) -> list[str]:
    Path("p.yaml").write_text(dedent(text))
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.usefixtures("in_process")
def test_a_type_of_the_file_works_like_any_other(registry: Registry) -> None:
    write([*TICKETS])
    result = run_text(PIPELINE, registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, "select name, type, rows from datasets order by name") == [
        ("demo/once.again", "Ticket", 0),
        ("demo/once.first", "Ticket", 2),
        ("demo/tickets", "Ticket", 2),
    ]
    assert ask(registry, """select urgency, score, "by".age from "demo/once.first" order by text""") == [
        ("high", None, None),
        ("low", 1.0, 3),
    ]


@pytest.mark.usefixtures("in_process")
def test_a_version_of_such_a_type_is_used_by_another_file(registry: Registry) -> None:
    write([*TICKETS])
    assert run_text(PIPELINE, registry).state == "succeeded"
    other = """
        name: other
        datasets: {tickets: {registry: demo/once.first@1}}
        steps: {once: {op: unique, in: tickets, with: {of: urgency}}, more: {op: unique, in: "registry:demo/tickets@1", with: {of: text}}}
        """
    result = run_text(other, registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, "select name, type, rows from datasets where name like 'other%first' order by name") == [
        ("other/more.first", "Ticket", 2),
        ("other/once.first", "Ticket", 2),
    ]


def test_wrong_rows_and_words_are_found_by_check(workdir: Path) -> None:
    write([TICKETS[0], {**TICKETS[1], "urgency": "urgent"}])
    [problem] = problems_of(PIPELINE)
    assert "tickets.jsonl:2: not a Ticket: urgency: must be 'low', 'medium' or 'high' (given: 'urgent')" in problem


def test_every_problem_of_the_types_is_reported_with_its_place(workdir: Path) -> None:
    write([*TICKETS])
    text = """
    name: demo
    types:
      Ticket:
        text: str
        other: strr
        self: Ticket
        row: int
        Text: int
        tags: [str]
        ok: true
      Late: {extends: Tickt, a: str}
      One: {two: Two}
      Two: {one: One}
      lower: {a: str}
      Empty: {}
    datasets:
      tickets: {type: Ticket, path: tickets.jsonl}
      others: {type: Lat, path: tickets.jsonl}
    steps:
      once: {op: unique, in: tickets, with: {of: text}}
    """
    found = "\n".join(problems_of(text))
    for expected in (
        "p.yaml:6:12: Ticket.other: there is no type 'strr'; did you mean 'str'?",
        "p.yaml:7:11: type Ticket contains itself",
        "p.yaml:8:5: field 'row' of Ticket: this name is reserved",
        "p.yaml:9:5: field 'Text' of Ticket: SQL cannot distinguish it from 'text'",
        "p.yaml:10:11: Ticket.tags: ['str'] is not a type",
        "p.yaml:11:9: Ticket.ok: True is not a type",
        "p.yaml:12:19: there is no type 'Tickt'",
        "p.yaml:14:14: type One contains itself",
        "'lower' is not a valid name\n    use letters and digits, and start with a capital letter",
        "type Empty has no fields",
        "no record type named 'Lat'",
        "did you mean 'Late'?",
    ):
        assert expected in found


def test_a_format_needs_a_type(workdir: Path) -> None:
    write(TICKETS)
    text = "{name: demo, datasets: {t: {path: tickets.jsonl, format: sharegpt}}, steps: {once: {op: unique, in: t, with: {of: text}}}}"
    [problem] = problems_of(text)
    assert "a dataset needs a type to have a format; add the type that rows of 'sharegpt' become" in problem


def test_brackets_inside_braces_need_quotes_and_the_error_says_so(workdir: Path) -> None:
    [problem] = problems_of("{name: demo, types: {A: {tags: list[str]}}, steps: {}}")
    assert "needs quotes" in problem


@pytest.mark.usefixtures("in_process")
def test_a_dataset_without_a_type_is_typed_from_its_rows(registry: Registry) -> None:
    write([{**TICKETS[0], "n": 1, "e": {}, "_id": 7}, {**TICKETS[1], "n": 2.5}])
    text = """
        name: demo
        datasets: {support_tickets: {path: tickets.jsonl, rename: {text: body}}}
        steps: {once: {op: unique, in: support_tickets, with: {of: body}}}
        """
    Path("p.yaml").write_text(dedent(text))
    [source] = make_plan(check(Path("p.yaml")), registry, select=set(), force=set()).sources
    assert source.inferred == ("body: str, urgency: str, tags: list[str], by: {name: str, age: int?}, n: float, score: int?")
    assert source.ignored == {"_id": 1, "e": 1}
    assert run_text(text, registry).state == "succeeded"
    assert ask(registry, "select type from datasets where name = 'demo/support_tickets'") == [("SupportTickets",)]
    # Rows of another kind change the type, and that is said.
    write([{"text": "a", "n": "many", "lang": "en"}])
    [source] = make_plan(check(Path("p.yaml")), registry, select=set(), force=set()).sources
    assert {"+ lang (str)", "- tags", "n: float, now str"} <= {*source.changed}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a;b;c\n", "1;007;true\n", ";8;false\n"], {"a": "int?", "b": "str", "c": "bool"}),
        (["a,b\n", "1.50,x\n", "2,1\n"], {"a": "float", "b": "str"}),
    ],
)
def test_cells_of_csv_files_are_numbers_where_all_are(workdir: Path, lines: list[str], expected: dict[str, str]) -> None:
    Path("cells.csv").write_text("".join(lines))
    Path("p.yaml").write_text(
        "{name: demo, datasets: {cells: {path: cells.csv}}, steps: {once: {op: unique, in: cells, with: {of: b}}}}"
    )
    record = check(Path("p.yaml")).sources["cells"].record
    assert fields_of_type(record) == expected


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"a": 1}, {"a": [1]}], "'a' has values of different kinds: int in r.jsonl:1 and a list in r.jsonl:2"),
        ([{"a": [{"b": True}, {"b": "x"}]}], "'a[].b' has values of different kinds: bool in r.jsonl:1 and str in r.jsonl:1"),
        ([{"a": 1, "A": 2}], "SQL cannot distinguish the fields 'a' and 'A'"),
        ([[1, 2], "text"], "r.jsonl:1: a row must be a JSON object, but this is a list (and 1 more row that cannot be read)"),
        ([{"_a": 1}], "has no rows to take its type from"),
        ([{str(number): 1 for number in range(501)}], "more than 500 different keys"),
    ],
)
def test_rows_without_a_common_type_are_refused(workdir: Path, rows: list[object], why: str) -> None:
    write(rows, "r.jsonl")
    text = "{name: demo, datasets: {r: {path: r.jsonl}}, steps: {once: {op: unique, in: r, with: {of: a}}}}"
    assert why in "\n".join(problems_of(text))


@pytest.mark.usefixtures("in_process")
def test_later_rows_that_do_not_fit_stop_the_run_and_say_what_to_do(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.sources.inferred_types.ROWS", 2)
    write([{"a": 1}] * 25 + [{"a": None}], "r.jsonl")
    text = "{name: demo, datasets: {r: {path: r.jsonl}}, steps: {once: {op: unique, in: r, with: {of: a}}}}"
    with pytest.raises(PipelineError, match=r"(?s)r.jsonl:26: not a R: a: .*declare one under types"):
        run_text(text, registry)


def test_a_generated_dataset_needs_a_type(workdir: Path) -> None:
    [problem] = problems_of(
        "{name: demo, datasets: {r: {generator: reasoning_gym/chain_sum}}, steps: {once: {op: unique, in: r, with: {of: a}}}}"
    )
    assert "a dataset that a generator makes needs a type" in problem
