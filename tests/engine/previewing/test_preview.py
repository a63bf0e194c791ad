"""A preview asks for a few rows, commits nothing, and the run then sends exactly the remaining calls."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from rich.console import Console

from engine.cli.preview_view import preview_document, print_preview
from engine.cli.progress import PlainProgress
from engine.pipeline.check import check
from engine.previewing.preview import preview
from engine.previewing.results import Preview, PreviewStep
from registry import Registry
from tests.chat_server import ChatServer, error
from tests.engine.run_pipelines import ask, run_text, words

pytestmark = pytest.mark.usefixtures("in_process")


def pipeline(steps: str, models: str = "") -> str:
    """A pipeline over words.jsonl."""
    head = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "
    return head + (f"models: {{teacher: {models}}}, " if models else "") + f"steps: {{{steps}}}}}"


def preview_text(text: str, registry: Registry, rows: int = 10, step: str = "") -> Preview:
    """Preview a pipeline given as YAML."""
    Path("p.yaml").write_text(dedent(text))
    if registry.exists:
        with registry.look_ups() as look_ups:
            checked = check(Path("p.yaml"), None, look_ups)
    else:
        checked = check(Path("p.yaml"), None)
    return preview(checked, registry, PlainProgress(Console(quiet=True)), select=set(step.split()), rows=rows)


def steps_of(made: Preview) -> dict[str, PreviewStep]:
    """The steps by name."""
    return {each.name: each for each in made.steps}


def many(count: int) -> None:
    """Write that many words."""
    words(*[f"w{number}" for number in range(count)])


def test_the_run_sends_exactly_the_remaining_calls(registry: Registry, chat_server: ChatServer) -> None:
    many(120)
    text = pipeline("said: {op: ask_once, in: words}, again: {op: ask_once, in: said}", chat_server.model())
    made = preview_text(text, registry, rows=50)
    assert (made.state, len(chat_server.requests)) == ("done", 100)
    assert run_text(text, registry).state == "succeeded"
    assert len(chat_server.requests) == 240
    assert len(set(chat_server.prompts)) == 240


def test_a_preview_commits_nothing_where_there_is_no_registry(registry: Registry, chat_server: ChatServer) -> None:
    many(30)
    text = pipeline("said: {op: ask_once, in: words}", chat_server.model())
    preview_text(text, registry, rows=5)
    assert not registry.exists
    assert {each.name for each in registry.root.iterdir()} == {"journal", "previews"}
    run_text(text, registry)
    assert len(chat_server.requests) == 30


def test_a_preview_leaves_the_catalog_as_it_is(registry: Registry, chat_server: ChatServer) -> None:
    many(30)
    run_text(pipeline("loud: {op: shout, in: words}"), registry)
    views = ("select * from versions", "select * from runs", "select * from step_runs", "select * from datasets")
    before = [ask(registry, each) for each in views]
    preview_text(pipeline("said: {op: ask_once, in: words}, loud: {op: shout, in: words}", chat_server.model()), registry)
    assert [ask(registry, each) for each in views] == before


def test_the_rows_are_drawn_by_content_and_a_smaller_preview_is_part_of_a_larger_one(
    registry: Registry, chat_server: ChatServer
) -> None:
    texts = [f"w{number}" for number in range(60)]
    text = pipeline("said: {op: ask_once, in: words}", chat_server.model())
    words(*texts)
    preview_text(text, registry, rows=8)
    first = set(chat_server.prompts)
    words(*reversed(texts))
    preview_text(text, registry, rows=8)
    assert (len(first), set(chat_server.prompts)) == (8, first)
    preview_text(text, registry, rows=20)
    assert len(chat_server.prompts) == 20


def test_it_shows_what_became_of_each_row(registry: Registry, chat_server: ChatServer) -> None:
    words("ab", "skip", "cde", "bad")
    chat_server.answer = lambda prompt, seen: "7" if "c" in prompt else "seven"
    made = preview_text(
        pipeline("cut: {op: by_length, in: words}, said: {op: number_of, in: cut.long}", chat_server.model()), registry
    )
    cut, said = made.steps
    assert (cut.state, cut.rows_in, cut.rows_out, cut.filtered, cut.rejected) == ("previewed", 4, {"long": 3, "short": 1}, 1, 1)
    assert {row.input["text"]: [each["text"] for _, each in row.outputs] for row in cut.rows if row.input} == {
        "ab": ["ab"],
        "skip": [],
        "cde": ["c", "d", "e"],
        "bad": [],
    }
    assert [row.rejected for row in cut.rows if row.rejected] == ["it is bad"]
    # Two of three are rejected, which a preview shows; a run would stop.
    assert (said.state, said.rejected, said.reasons) == ("previewed", 2, {"'seven' is no number": 2})
    [good] = [row for row in said.rows if not row.rejected]
    [call] = good.calls
    assert (call.messages[-1]["content"], call.response, good.outputs) == ("Number of c", "7", (("out", {"text": "7"}),))
    assert [row.calls[0].response for row in said.rows if row.rejected] == ["seven", "seven"]


def test_only_a_step_and_what_it_needs(registry: Registry, chat_server: ChatServer) -> None:
    many(5)
    steps = "a: {op: ask_once, in: words}, b: {op: ask_once, in: a}, c: {op: three_of, in: words}"
    made = preview_text(pipeline(steps, chat_server.model()), registry, step="b")
    assert [each.name for each in made.steps] == ["a", "b"]
    assert len(chat_server.requests) == 10


def test_inputs_that_are_looked_up_are_whole_so_the_run_asks_the_same(registry: Registry, chat_server: ChatServer) -> None:
    many(40)
    words(*[f"other{number}" for number in range(30)], file="others.jsonl")
    text = pipeline(
        "mixed: {op: draw, in: {word: words, others: others}}, said: {op: ask_once, in: mixed}", chat_server.model()
    ).replace("path: words.jsonl}", "path: words.jsonl}, others: {type: Word, path: others.jsonl}")
    made = preview_text(text, registry, rows=10)
    assert [(each.name, each.drawn) for each in made.sampled] == [("words", 10)]
    run_text(text, registry)
    assert len(chat_server.requests) == 40


def test_operators_on_whole_inputs_see_the_drawn_rows(registry: Registry, chat_server: ChatServer) -> None:
    many(40)
    text = pipeline("one: {op: distinct, in: words}, said: {op: ask_once, in: one}", chat_server.model())
    made = preview_text(text, registry, rows=6)
    assert [(each.rows_in, sum(each.rows_out.values())) for each in made.steps] == [(6, 6), (6, 6)]
    assert made.forecast
    assert made.forecast.steps[1].calls
    assert made.forecast.steps[1].calls.expected == 34
    run_text(text, registry)
    assert len(chat_server.requests) == 40


def test_steps_that_are_up_to_date_are_not_run_and_give_rows_to_others(registry: Registry, chat_server: ChatServer) -> None:
    many(40)
    first = "a: {op: ask_once, in: words}"
    run_text(pipeline(first, chat_server.model()), registry)
    text = pipeline(f"{first}, b: {{op: ask_once, in: a}}", chat_server.model())
    made = preview_text(text, registry, rows=6)
    assert [each.state for each in made.steps] == ["up to date", "previewed"]
    assert (made.sampled, len(chat_server.requests)) == ((("a.out", 40, 6),), 46)
    run_text(text, registry)
    assert len(chat_server.requests) == 80


def test_versions_of_other_pipelines_are_drawn_from(registry: Registry, chat_server: ChatServer) -> None:
    many(40)
    run_text(pipeline("a: {op: shout, in: words}"), registry)
    text = (
        f"{{name: next, models: {{teacher: {chat_server.model()}}}, datasets: {{all: {{registry: demo/a@1}}}}, "
        "steps: {b: {op: ask_once, in: all}}}"
    )
    preview_text(text, registry, rows=6)
    run_text(text, registry)
    assert len(chat_server.requests) == 40


def test_a_step_that_fails_is_shown_with_the_reason(registry: Registry, chat_server: ChatServer) -> None:
    many(5)
    chat_server.reply = lambda body: error(401, "no such key")
    made = preview_text(
        pipeline("a: {op: ask_once, in: words}, b: {op: ask_once, in: a}, c: {op: shout, in: words}", chat_server.model()),
        registry,
    )
    assert made.state == "failed"
    assert "no such key" in (made.error or "")
    found = steps_of(made)
    assert (found["a"].state, found["b"].state) == ("failed", "not reached")
    assert "no such key" in found["a"].why


def test_a_budget_counts_as_in_a_run(registry: Registry, chat_server: ChatServer) -> None:
    many(20)
    made = preview_text(pipeline("a: {op: ask_once, in: words}", chat_server.model(max_calls=4)), registry)
    assert made.state == "failed"
    assert "max_calls" in (made.error or "")
    assert len(chat_server.requests) == 4
    # Paid answers are used.
    preview_text(pipeline("a: {op: ask_once, in: words}", chat_server.model()), registry)
    assert len(chat_server.requests) == 10


def test_a_preview_of_more_rows_is_what_the_forecast_remembers(registry: Registry, chat_server: ChatServer) -> None:
    many(40)
    text = pipeline("a: {op: ask_once, in: words}", chat_server.model())
    preview_text(text, registry, rows=30)
    made = preview_text(text, registry, rows=5)
    assert made.forecast
    assert made.forecast.calls == (10, 10, 10)


def test_a_preview_of_all_rows_leaves_nothing_to_pay(registry: Registry, chat_server: ChatServer) -> None:
    many(8)
    text = pipeline("a: {op: ask_once, in: words}, all: {op: joined, in: a}", chat_server.model())
    made = preview_text(text, registry, rows=8)
    assert made.forecast
    assert made.forecast.calls == (0, 0, 0)
    assert run_text(text, registry).state == "succeeded"
    assert len(chat_server.requests) == 8


def test_every_variant_of_a_matrix_is_previewed(registry: Registry, chat_server: ChatServer) -> None:
    many(12)
    text = f"""
        name: demo
        params: {{mark: "!"}}
        matrix: {{mark: [a, b]}}
        datasets: {{words: {{type: Word, path: words.jsonl}}}}
        models: {{teacher: {chat_server.model()}}}
        steps:
          loud: {{op: shout, in: words, with: {{mark: "${{params.mark}}"}}}}
          said: {{op: ask_once, in: loud}}
    """
    made = preview_text(text, registry, rows=4)
    assert made.state == "done"
    assert sorted(steps_of(made)) == ["mark=a/loud", "mark=a/said", "mark=b/loud", "mark=b/said"]


def test_it_shows_what_operators_count(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    words("a", "bb", "ccc")
    made = preview_text(pipeline("longer: {op: filter, in: words, with: {where: length(text) > 1}}"), registry)
    assert {(each.metric, each.slice): each.value for each in made.steps[0].metrics} == {
        ("rows", "kept"): 2,
        ("rows", "dropped"): 1,
    }
    [step] = preview_document(made)["steps"]
    assert {"metric": "rows", "value": 2.0, "slice": "kept"} in step["metrics"]
    print_preview(made, Console())
    assert "rows: 1 dropped, 2 kept" in " ".join(capsys.readouterr().out.split())
