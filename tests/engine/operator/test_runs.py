"""Errors in an operator's own code during a check or a run name the file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import scratch_ops

from engine.errors import PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, run_text, words


def line_of(text: str) -> str:
    """`FILE:LINE` of a line of the scratch operators."""
    file = Path(scratch_ops.__file__)
    return f"{file}:{file.read_text().splitlines().index(text) + 1}"


def pipeline(server: ChatServer, op: str, given: str = "{}") -> str:
    model = server.model(limits={"concurrency": 1})
    return (
        f"{{name: demo, models: {{teacher: {model}}}, datasets: {{words: {{type: Word, path: words.jsonl}}}}, "
        f"steps: {{s: {{op: {op}, in: words, with: {given}}}}}}}"
    )


@pytest.mark.usefixtures("in_process")
def test_a_wrong_count_fails_the_step_at_its_first_row(registry: Registry, chat_server: ChatServer) -> None:
    words(*(f"word {number}" for number in range(40)))
    result = run_text(pipeline(chat_server, "counts_wrongly"), registry)
    place = line_of('    ctx.count("size", by=answer.text)  # type: ignore[arg-type]')
    assert f"{place}: ctx.count: by is " in str(result.error)
    assert "expected a number" in str(result.error)
    assert len(chat_server.requests) < 5


@pytest.mark.usefixtures("in_process")
def test_memory_that_is_full_rejects_no_row(registry: Registry, chat_server: ChatServer) -> None:
    words("a", "b")
    result = run_text(pipeline(chat_server, "fills_the_memory"), registry)
    assert "operator fills_the_memory raised OutOfMemoryError on row 0 of 'word': CUDA out of memory" in str(result.error)
    assert ask(registry, "select rejected from step_runs") == [(0,)]


def test_a_method_of_parameters_that_raises_is_a_problem_of_the_step(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    Path("p.yaml").write_text(pipeline(chat_server, "halved", "{by: 0}"))
    with pytest.raises(PipelineError) as error:
        check(Path("p.yaml"))
    [problem] = error.value.problems
    assert problem.position is not None
    place = line_of('        return {"teacher": 4 // self.by}')
    assert f"{place}: Halves.calls raised ZeroDivisionError: " in problem.message
    assert "(parameters: {'by': 0})" in problem.message


def test_a_method_that_raises_hides_no_other_problem(registry: Registry, chat_server: ChatServer) -> None:
    words("a")
    text = pipeline(chat_server, "wishful", "{by: 0}").replace("{s: {", "{t: {op: shout, in: nothing}, s: {")
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as error:
        check(Path("p.yaml"))
    raised, *others = sorted((problem.message for problem in error.value.problems), key=lambda text: "raised" not in text)
    place = line_of('        return {"teacher": ["n"] if 4 // self.by > 1 else []}')
    assert f"{place}: Wishes.capabilities raised ZeroDivisionError: " in raised
    assert sorted(others) == ["no dataset or step 'nothing'", "wishful: by must not be 0"]
    assert all(problem.position for problem in error.value.problems)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("op", "line", "expected"),
    [
        ("ends_wrongly", '    yield Metric(metric="ratio", slice="", value=1 / counts["words", ""])', "ratio raised KeyError"),
        ("returns_a_list", "@operator(outputs=Word)", "operator returns_a_list returned a list; expected an Arrow table"),
        ("renames_columns", "@operator(outputs=Word)", "returned rows that do not fit Word: text: Field required"),
    ],
)
def test_a_fault_fails_the_step_and_names_the_line(registry: Registry, op: str, line: str, expected: str) -> None:
    words("a")
    result = run_text(
        f"{{name: d, datasets: {{w: {{type: Word, path: words.jsonl}}}}, steps: {{s: {{op: {op}, in: w}}}}}}", registry
    )
    assert result.state == "failed"
    assert expected in str(result.error)
    place = line_of(line).rpartition(":")
    assert f"{place[0]}:" in str(result.error)
    assert line.startswith("@") or f":{place[2]}: " in str(result.error)
    assert ask(registry, "select outcome from step_runs where step = 's'") == [("failed",)]
