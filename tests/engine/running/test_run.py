"""A run makes only what is missing, accounts for every row, and records where each row came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.execution.cluster import Cluster
from engine.execution.executor import Executor
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.running.step_task import StepTask
from registry import Registry
from tests.chat_server import ChatServer, error
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words
from tests.in_process import InProcess, Unused

# Workers are in this process where a test is about what the engine decides. Tests about workers name the cluster: it is Ray's.
pytestmark = pytest.mark.usefixtures("in_process")

HEAD = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, "


def pipeline(steps: str, models: str = "") -> str:
    """A pipeline over words.jsonl."""
    return HEAD + (f"models: {{teacher: {models}}}, " if models else "") + f"steps: {{{steps}}}}}"


def test_rows_keep_their_order_and_their_lineage(registry: Registry, ray_session: None) -> None:
    words(*[f"w{number}" for number in range(2500)])
    result = run_text(pipeline("loud: {op: shout, in: words}"), registry, cluster=Cluster(registry.location))
    assert result.state == "succeeded"
    assert texts(registry, "demo/loud") == [f"W{number}!" for number in range(2500)]
    assert ask(registry, "select count(*), sum(child_row = parent_row) from row_lineage where child = 'demo/loud'") == [
        (2500, 2500)
    ]


def test_every_row_is_accounted_for(registry: Registry) -> None:
    words("ab", "skip", "cde", "bad", "f", "skip")
    result = run_text(pipeline("cut: {op: by_length, in: words, max_reject_ratio: 0.5}"), registry)
    record = result.steps[0].record
    assert (record.rows_in, record.rows_out, record.filtered, record.rejected) == (6, 5, 2, 1)
    assert texts(registry, "demo/cut.long") == ["c", "d", "e"]
    assert texts(registry, "demo/cut.short") == ["ab", "f"]
    assert ask(registry, "select name, parent_row, reason from rejects") == [("demo/cut.long", 3, "it is bad")]
    assert ask(registry, "select child, child_row, parent_row from row_lineage order by all") == [
        ("demo/cut.long", 0, 2),
        ("demo/cut.long", 1, 2),
        ("demo/cut.long", 2, 2),
        ("demo/cut.short", 0, 0),
        ("demo/cut.short", 1, 4),
    ]
    assert ask(registry, "select rows_in, rows_out, rejected from step_runs") == [(6, 5, 1)]


def test_lists_of_inputs_are_concatenated_and_lineage_names_the_right_one(registry: Registry) -> None:
    words("ab", "cde")
    steps = "cut: {op: by_length, in: words}, loud: {op: shout, in: [cut.short, words, cut.long]}"
    run_text(pipeline(steps), registry)
    assert texts(registry, "demo/loud") == ["AB!", "AB!", "CDE!", "C!", "D!", "E!"]
    parents = ask(registry, "select child_row, parent, parent_row from row_lineage where child = 'demo/loud' order by 1")
    assert parents == [
        (0, "demo/cut.short", 0),
        (1, "demo/words", 0),
        (2, "demo/words", 1),
        (3, "demo/cut.long", 0),
        (4, "demo/cut.long", 1),
        (5, "demo/cut.long", 2),
    ]


def test_batches_keep_lineage_only_if_they_keep_the_row_number(registry: Registry) -> None:
    words("b", "a", "c")
    run_text(
        pipeline("sorted: {op: ordered, in: words}, lump: {op: opaque, in: words}, all: {op: joined, in: sorted}"), registry
    )
    assert texts(registry, "demo/sorted") == ["a", "b", "c"]
    assert texts(registry, "demo/lump") == ["b,a,c"]
    assert texts(registry, "demo/all") == ["a b c"]
    assert ask(registry, "select child, child_row, parent_row from row_lineage order by all") == [
        ("demo/sorted", 0, 1),
        ("demo/sorted", 1, 0),
        ("demo/sorted", 2, 2),
    ]
    assert ask(registry, "select metric, value from metrics where name = 'demo/all'") == [("words", 3.0)]


def test_a_finished_run_is_found_without_starting_ray(registry: Registry) -> None:
    words("a", "b")
    steps = "loud: {op: shout, in: words}, louder: {op: shout, in: loud}"
    assert outcomes(run_text(pipeline(steps), registry)) == {"loud": "ran", "louder": "ran"}
    assert outcomes(run_text(pipeline(steps), registry, cluster=Unused())) == {"loud": "hit", "louder": "hit"}
    assert ask(registry, "select count(*) from versions") == [(3,)]


def test_only_steps_affected_by_a_change_run_again(registry: Registry) -> None:
    words("a", "b")
    steps = 'cut: {op: by_length, in: words, with: {at: 5}}, loud: {op: shout, in: cut.short, with: {mark: "?"}}'
    run_text(pipeline(steps), registry)
    # Another threshold gives the same rows: the step runs, but later steps do not.
    assert outcomes(run_text(pipeline(steps.replace("at: 5", "at: 6")), registry)) == {"cut": "ran", "loud": "hit"}
    assert outcomes(run_text(pipeline(steps.replace('"?"', '"."')), registry)) == {"cut": "hit", "loud": "ran"}
    assert texts(registry, "demo/loud") == ["A.", "B."]
    assert texts(registry, "demo/loud@1") == ["A?", "B?"]
    # Back to where we were: everything hits, and `latest` moves back.
    assert outcomes(run_text(pipeline(steps), registry)) == {"cut": "hit", "loud": "hit"}
    assert texts(registry, "demo/loud") == ["A?", "B?"]


def test_changed_rows_run_again_and_resources_do_not_matter(registry: Registry) -> None:
    words("a", "b")
    steps = "loud: {op: shout, in: words%s}"
    run_text(pipeline(steps % ""), registry)
    assert outcomes(run_text(pipeline(steps % ", resources: {workers: 2, num_cpus: 0.5}"), registry)) == {"loud": "hit"}
    words("a", "c")
    assert outcomes(run_text(pipeline(steps % ""), registry)) == {"loud": "ran"}
    assert texts(registry, "demo/words@2") == ["a", "c"]


def test_selected_and_forced_steps_run(registry: Registry) -> None:
    words("a")
    steps = "loud: {op: shout, in: words}, louder: {op: shout, in: loud}, other: {op: shout, in: words}"
    assert outcomes(run_text(pipeline(steps), registry, select="louder")) == {"loud": "ran", "louder": "ran"}
    # `other` is the same work as `loud` under another name: its partitions are there already.
    assert outcomes(run_text(pipeline(steps), registry, force="loud")) == {"loud": "ran", "louder": "hit", "other": "resumed"}
    assert ask(registry, "select max(version) from versions") == [(1,)]  # the same work is the same version


def test_draws_depend_on_the_rows_content_and_not_on_its_position(registry: Registry) -> None:
    steps = "drawn: {op: draw, in: {word: words, others: words}}"
    words("a", "b", "c", "d")
    run_text(pipeline(steps), registry)
    first = set(texts(registry, "demo/drawn"))
    words("d", "c", "b", "a")
    run_text(pipeline(steps), registry)
    # Each word draws the same position of the table, whose rows are now in reverse order.
    turned = dict(zip("abcd", "dcba", strict=True))
    assert {f"{text[0]} {turned[text[2]]}" for text in texts(registry, "demo/drawn")} == first


@pytest.mark.parametrize(
    ("text", "message", "cluster"),
    [
        # The traceback comes from another process.
        ("boom", r"\w+\.py:\d+: operator broken raised ZeroDivisionError on row 1 of 'word': no such thing", Cluster),
        ("unpaired", r"\w+\.py:\d+: operator broken raised ValueError on row 1 of 'word': no \ufffd", Cluster),
        ("invalid", r"operator broken yielded an invalid Word for row 1 of 'word': .*text", lambda _: InProcess()),
        ("wrong", r"\w+\.py:\d+: operator broken yielded a str to 'out', which takes Word", lambda _: InProcess()),
    ],
)
def test_an_exception_in_an_operator_fails_the_step_and_names_the_row(
    registry: Registry, ray_session: None, text: str, message: str, cluster: Callable[[str], Executor]
) -> None:
    words("fine", text)
    steps = "loud: {op: shout, in: words}, b: {op: broken, in: words}"
    result = run_text(pipeline(steps), registry, cluster=cluster(registry.location))
    assert result.state == "failed"
    assert result.error
    assert re.search(message, result.error, re.DOTALL)
    assert outcomes(result)["b"] == "failed"
    assert "Traceback" in result.trace
    assert ask(registry, "select state from runs") == [("failed",)]


def test_a_worker_that_keeps_dying_fails_the_step(registry: Registry, ray_session: None) -> None:
    words(*["fine"] * 1024, "die")
    result = run_text(
        pipeline("d: {op: dies, in: words, resources: {workers: 1}}"), registry, cluster=Cluster(registry.location)
    )
    assert result.state == "failed"
    assert result.error
    assert "a worker process died 3 times at rows" in result.error


EDITS = '''
"""Operators, of which the first edits the second in the middle of a run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from engine.operator import Record, Table, operator


class Line(Record):
    text: str


@operator
async def edit(line: Line) -> AsyncIterator[Line]:
    """Edit this file."""
    file = Path(__file__)
    file.write_text(file.read_text().replace("'ol" + "d'", "'new'"))
    yield line


@operator
def end(lines: Table[Line]) -> Iterator[Line]:
    """Add a word to each line."""
    for line in lines:
        yield Line(text=line.text + 'old')
'''


def test_an_operator_that_is_edited_in_the_middle_of_a_run_fails_its_step_and_no_other(
    registry: Registry, ray_session: None
) -> None:
    words("a")
    Path("my_ops.py").write_text(EDITS)
    text = """
        name: demo
        operators: [my_ops.py]
        datasets: {words: {type: Line, path: words.jsonl}}
        steps: {edited: {op: edit, in: words}, ended: {op: end, in: edited}}
    """
    result = run_text(text, registry, cluster=Cluster(registry.location))
    assert outcomes(result) == {"edited": "ran", "ended": "failed"}
    assert "step 'ended' failed: the code of operator 'my_ops:end'" in str(result.error)
    assert "If you have just edited it, run again" in str(result.error)
    assert texts(registry, "demo/edited@1") == ["a"]


def test_an_empty_dataset_gives_empty_outputs(registry: Registry) -> None:
    words()
    text = pipeline("loud: {op: shout, in: words}, all: {op: joined, in: loud}")
    result = run_text(text.replace("words.jsonl", "words.jsonl, allow_empty: true"), registry)
    assert result.state == "succeeded"
    assert texts(registry, "demo/loud") == []
    assert texts(registry, "demo/all") == [""]


def test_a_row_of_ten_megabytes_is_processed(registry: Registry, ray_session: None) -> None:
    words("x" * (10 << 20), "small")
    result = run_text(pipeline("loud: {op: shout, in: words}"), registry, cluster=Cluster(registry.location))
    assert result.state == "succeeded"
    assert [len(text) for text in texts(registry, "demo/loud")] == [(10 << 20) + 1, 6]


def test_a_bad_row_stops_before_anything_is_recorded(registry: Registry, no_cluster: None) -> None:
    Path("words.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(PipelineError, match=r"words\.jsonl:2: not a Word: text is missing"):
        run_text(pipeline("loud: {op: shout, in: words}"), registry)
    assert not registry.exists or ask(registry, "select count(*) from runs") == [(0,)]


def test_resources_that_no_node_has_are_an_error(registry: Registry, ray_session: None) -> None:
    words("a")
    result = run_text(
        pipeline("loud: {op: shout, in: words, resources: {num_cpus: 4096}}"), registry, cluster=Cluster(registry.location)
    )
    assert result.error
    assert "no node of the cluster has that much" in result.error


# -- with a model --------------------------------------------------------------------------------------------------


def test_calls_are_linked_to_the_rows_made_from_them(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    result = run_text(
        pipeline("asked: {op: ask, in: words}", chat_server.model(price={"input": 1000, "output": 2000})), registry
    )
    assert result.state == "succeeded"
    assert texts(registry, "demo/asked") == [f"You said: Say {word} {times}" for word in "ab" for times in ("once", "twice")]
    calls = ask(registry, "select row, response, role, model, tokens_in, tokens_out, cost_usd from llm_calls order by row")
    message = texts(registry, "demo/asked")
    # The second row of a word may come from either call, as far as the engine can see.
    made = [(0, message[0]), (1, message[0]), (1, message[1]), (2, message[2]), (3, message[2]), (3, message[3])]
    assert sorted(calls) == sorted((row, text, "teacher", "test-model", 10, 5, 0.02) for row, text in made)
    assert ask(registry, "select calls, calls_reused, tokens_in, tokens_out, cost_usd from step_runs") == [(4, 0, 40, 20, 0.08)]
    assert ask(registry, "select metric, slice, value from metrics order by 2") == [("asked", "a", 1.0), ("asked", "b", 1.0)]
    traced = ask(
        registry,
        "select t.name, t.row, c.prompt from trace('demo/asked@1', 3) t left join llm_calls c on list_contains(t.call_ids, c.call_id)",
    )
    assert {row[:2] for row in traced} == {("demo/asked", 3), ("demo/words", 1)}
    assert any("Say b twice" in (prompt or "") for _, _, prompt in traced)


def test_only_a_changed_prompt_requests_answers_again(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    model = chat_server.model()
    run_text(pipeline("asked: {op: ask, in: words}", model), registry)
    assert len(chat_server.requests) == 4
    words("b", "a", "a", "c")
    run_text(pipeline("asked: {op: ask, in: words}", model), registry)
    assert len(chat_server.requests) == 6  # only the new row
    run_text(pipeline("asked: {op: ask, in: words, with: {prompt: Tell}}", model), registry)
    assert len(chat_server.requests) == 12


def test_an_endpoint_that_refuses_stops_the_step_at_once(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(100)])
    chat_server.answer = lambda prompt, seen: error(401, "wrong key")
    result = run_text(pipeline("asked: {op: ask_once, in: words}", chat_server.model(limits={"concurrency": 4})), registry)
    assert result.error
    assert "401: wrong key" in result.error
    assert len(chat_server.requests) < 50


def test_rows_that_the_server_refuses_are_rejected_with_its_message(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(40)])
    answers = {"Say 7": error(400, "poison"), "Say 9": "", "Say 11": "half \ud800 a pair"}
    chat_server.answer = lambda prompt, seen: answers.get(prompt, "fine")
    result = run_text(pipeline("asked: {op: ask_once, in: words}", chat_server.model()), registry)
    assert result.state == "succeeded"
    assert ask(registry, 'select count(*) from "demo/asked"') == [(37,)]
    rejected = dict(ask(registry, "select parent_row, reason from rejects"))
    assert rejected.keys() == {7, 9, 11}
    assert "400: poison" in rejected[7]
    assert "empty answer" in rejected[9]
    assert "surrogate" in rejected[11]


def test_too_many_rejects_fail_the_step_and_the_next_run_requests_only_those(
    registry: Registry, chat_server: ChatServer
) -> None:
    words(*[str(number) for number in range(40)])
    chat_server.answer = lambda prompt, seen: "" if int(prompt.split()[1]) < 20 else "fine"
    text = pipeline("asked: {op: ask_once, in: words}", chat_server.model())
    result = run_text(text, registry)
    assert result.state == "failed"
    assert result.error
    assert "max_reject_ratio allows 10%" in result.error
    assert "Good answers are kept." in result.error
    before = len(chat_server.requests)
    chat_server.answer = lambda prompt, seen: "fine"
    assert run_text(text, registry).state == "succeeded"
    assert sorted(int(prompt.split()[1]) for prompt in chat_server.prompts[before:]) == list(range(20))


def test_a_budget_stops_the_run_and_a_larger_one_continues_it(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(30)])

    def text(budget: float) -> str:
        model = chat_server.model(price={"output": 100_000}, max_tokens=5, budget_usd=budget, limits={"concurrency": 2})
        return pipeline("asked: {op: ask_once, in: words}", model)

    result = run_text(text(5.0), registry)
    assert result.error
    assert "budget_usd 5 of model test-model is used up" in result.error
    assert len(chat_server.requests) == 10
    assert run_text(text(50.0), registry).state == "succeeded"
    assert len(chat_server.requests) == 30


# -- with the registry ---------------------------------------------------------------------------------------------


def test_a_version_of_another_pipeline_can_be_an_input(registry: Registry) -> None:
    words("a", "b")
    run_text(pipeline("loud: {op: shout, in: words}"), registry)
    text = "{name: other, datasets: {old: {type: %s, registry: demo/loud}}, steps: {more: {op: shout, in: [old, 'registry:demo/words@1']}}}"
    assert run_text(text % "Word", registry).state == "succeeded"
    assert texts(registry, "other/more") == ["A!!", "B!!", "A!", "B!"]
    assert [row[1:4] for row in ask(registry, "from trace('other/more@1', 0)")] == [
        ("other/more", 1, 0),
        ("demo/loud", 1, 0),
        ("demo/words", 1, 0),
    ]
    with pytest.raises(PipelineError, match=r"demo/loud is Word, not MathProblem: field 'question' \(str\) is missing"):
        run_text(text % "MathProblem", registry)
    with pytest.raises(PipelineError, match=r"'demo/words' has no version 9; it has 1"):
        run_text("{name: x, steps: {more: {op: shout, in: 'registry:demo/words@9'}}}", registry)


def test_an_interrupted_step_resumes_where_it_stopped(registry: Registry, chat_server: ChatServer) -> None:
    words(*[str(number) for number in range(300)])
    chat_server.answer = lambda prompt, seen: error(401, "wrong key") if len(chat_server.requests) > 200 else "fine"
    text = pipeline("asked: {op: ask_once, in: words}", chat_server.model(limits={"concurrency": 1}))
    assert run_text(text, registry).state == "failed"
    with registry.look_ups() as look_ups:
        plan = make_plan(check(Path("p.yaml"), None, look_ups), registry, select=set(), force=set(), why=True)
    [planned] = plan.steps
    assert planned.status == "RESUME"
    assert planned.total is not None
    assert 0 < planned.done < planned.total
    assert 100 <= planned.calls <= 300 - 32 * planned.done
    assert planned.why == (f"an earlier run finished {planned.done} of {planned.total} partitions",)
    chat_server.answer = lambda prompt, seen: "fine"
    assert outcomes(run_text(text, registry)) == {"asked": "resumed"}
    assert len(chat_server.requests) == 301  # each row once, and the one that failed again


def test_a_reason_that_is_not_unicode_is_repaired(registry: Registry) -> None:
    words("a", "unpaired")
    result = run_text(pipeline("b: {op: refuses, in: words, max_reject_ratio: 1}"), registry)
    assert result.state == "succeeded", result.error
    assert texts(registry, "demo/b") == ["a"]
    assert ask(registry, "select reason from rejects") == [("no \ufffd",)]


def test_a_run_that_is_interrupted_after_a_failure_has_its_reason(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    words("boom")

    def stop(task: StepTask) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StepTask, "halt", stop)
    stopped = run_text(pipeline("s: {op: broken, in: words}"), registry)
    assert stopped.state == "interrupted"
    assert stopped.error is not None
    assert re.fullmatch(r"step 's' failed: .*no such thing\nstopped by the user", stopped.error)
    assert ask(registry, "select error from runs") == [(stopped.error,)]
