"""Operators in files beside the pipeline file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.cli.progress import PlainProgress
from engine.errors import PipelineError
from engine.execution.cluster import Cluster
from engine.execution.jobs import job_of
from engine.fingerprint.code import code_digest
from engine.jobs.messages import Job
from engine.packages.local_modules import use_local_modules
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.running import step_task
from engine.running.run import run
from registry import Registry
from tests.engine.run_pipelines import ask, outcomes, run_text, texts

OPERATORS = """
from collections.abc import AsyncIterator
from engine.operator import Record, operator

class Note(Record):
    text: str

MARK = "!"

@operator
async def mark(note: Note) -> AsyncIterator[Note]:
    yield Note(text=note.text + MARK)
"""
PIPELINE = """
    name: demo
    operators: [my_ops.py]
    datasets: {notes: {type: Note, path: notes.jsonl}}
    steps: {marked: {op: mark, in: notes}}
    """


@pytest.fixture(autouse=True)
def _no_modules_stay() -> Iterator[None]:
    yield
    use_local_modules(())


@pytest.fixture
def notes(registry: Registry) -> Registry:
    Path("notes.jsonl").write_text('{"text": "a"}\n')
    Path("my_ops.py").write_text(OPERATORS)
    return registry


def problems_of(text: str) -> str:
    Path("p.yaml").write_text(text)
    with pytest.raises(PipelineError) as caught:
        check(Path("p.yaml"))
    return str(caught.value)


@pytest.mark.usefixtures("in_process")
def test_a_file_beside_the_pipeline_brings_operators_and_types(notes: Registry) -> None:
    assert run_text(PIPELINE, notes).state == "succeeded"
    assert texts(notes, "demo/marked@1") == ["a!"]
    assert outcomes(run_text(PIPELINE, notes)) == {"marked": "hit"}
    assert outcomes(run_text(PIPELINE.replace("op: mark", "op: my_ops:mark"), notes)) == {"marked": "hit"}


@pytest.mark.usefixtures("in_process")
def test_a_change_of_what_its_code_reads_runs_the_step_again(notes: Registry) -> None:
    assert run_text(PIPELINE, notes).state == "succeeded"
    Path("my_ops.py").write_text(OPERATORS.replace('"!"', '"?"'))
    [step] = make_plan(check(Path("p.yaml")), notes, select=set(), force=set(), why=True).steps
    assert step.status == "RUN"
    assert "my_ops:MARK" in step.why[0]
    assert outcomes(run_text(PIPELINE, notes)) == {"marked": "ran"}
    assert texts(notes, "demo/marked@2") == ["a?"]


@pytest.mark.usefixtures("in_process")
def test_a_file_beside_the_code_that_a_constant_names_runs_the_step_again_when_it_changes(notes: Registry) -> None:
    named = 'from pathlib import Path\nMARK = Path(__file__).with_name("mark.txt")'
    source = OPERATORS.replace('MARK = "!"', named).replace("+ MARK", "+ MARK.read_text()")
    Path("my_ops.py").write_text(source)
    Path("mark.txt").write_text("!")
    assert run_text(PIPELINE, notes).state == "succeeded"
    assert outcomes(run_text(PIPELINE, notes)) == {"marked": "hit"}
    Path("mark.txt").write_text("?")
    [step] = make_plan(check(Path("p.yaml")), notes, select=set(), force=set(), why=True).steps
    assert "my_ops:MARK" in step.why[0]
    assert outcomes(run_text(PIPELINE, notes)) == {"marked": "ran"}
    assert texts(notes, "demo/marked@2") == ["a?"]
    before = code_digest("mark")
    Path("elsewhere").mkdir()
    for file in ("my_ops.py", "mark.txt"):
        Path(file).rename(Path("elsewhere") / file)
    assert outcomes(run_text(PIPELINE.replace("my_ops.py", "elsewhere/my_ops.py"), notes)) == {"marked": "hit"}
    assert code_digest("mark") == before


@pytest.mark.usefixtures("in_process")
def test_a_file_that_changes_during_a_run_fails_the_step(notes: Registry) -> None:
    named = 'from pathlib import Path\nHERE = Path(__file__).parent\nMARK = HERE / "mark.txt"'
    source = OPERATORS.replace('MARK = "!"', named).replace("    yield", "    (HERE / MARK).write_text(note.text)\n    yield")
    Path("my_ops.py").write_text(source.replace("+ MARK", ""))
    Path("notes.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(3000)))
    result = run_text(PIPELINE, notes)
    assert result.state == "failed"
    assert "a file that it names (mark.txt)" in str(result.error)


@pytest.mark.usefixtures("in_process")
def test_a_file_that_changes_while_a_step_waits_for_workers_leaves_no_rows_under_the_old_key(
    notes: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = 'from pathlib import Path\nMARK = Path(__file__).with_name("mark.txt")'
    Path("my_ops.py").write_text(OPERATORS.replace('MARK = "!"', named).replace("+ MARK", "+ MARK.read_text()"))
    Path("mark.txt").write_text("!")

    def after_an_edit(*arguments: Any, **options: Any) -> Job:
        Path("mark.txt").write_text("?")
        return job_of(*arguments, **options)

    with monkeypatch.context() as waiting:
        waiting.setattr(step_task, "job_of", after_an_edit)
        assert run_text(PIPELINE, notes).state == "failed"
    Path("mark.txt").write_text("!")
    assert outcomes(run_text(PIPELINE, notes)) == {"marked": "ran"}
    assert texts(notes, "demo/marked") == ["a!"]


@pytest.mark.usefixtures("in_process")
def test_a_package_of_several_files(notes: Registry) -> None:
    folder = Path("ours/deep")
    folder.mkdir(parents=True)
    Path("ours/__init__.py").touch()
    Path("ours/deep/__init__.py").touch()
    Path("ours/deep/notes.py").write_text(OPERATORS.replace('MARK = "!"', "from ours.words import MARK"))
    Path("ours/words.py").write_text('MARK = "#"')
    text = PIPELINE.replace("my_ops.py", "ours")
    assert run_text(text, notes).state == "succeeded"
    Path("ours/words.py").write_text('MARK = "$"')
    assert outcomes(run_text(text, notes)) == {"marked": "ran"}
    assert texts(notes, "demo/marked@2") == ["a$"]


@pytest.mark.usefixtures("ray_session")
def test_workers_get_the_source_with_the_job(notes: Registry) -> None:
    Path("p.yaml").write_text(PIPELINE)
    pipeline = check(Path("p.yaml"))
    Path("my_ops.py").unlink()  # as on another machine
    observer = PlainProgress(Console(quiet=True))
    result = run(pipeline, notes, observer, select=set(), force=set(), cluster=Cluster(notes.location))
    assert result.state == "succeeded", result.error
    assert ask(notes, 'select text from "demo/marked@1"') == [("a!",)]


@pytest.mark.parametrize(
    ("entry", "why"),
    {
        "nothing.py": "nothing.py does not exist; a file of operators is named relative to the pipeline file",
        "notes.jsonl": "notes.jsonl is not a Python file",
        "folder": "the folder folder has no __init__.py",
        "json.py": "json is also the name of an installed module (Python's own); rename the file",
        "yaml.py": "yaml is also the name of an installed module",
        "my-ops.py": "'my-ops' cannot be the name of a module",
        "https://example.org/ops.py": "is a URL; operators are files on this machine",
        "latin.py": "it is not UTF-8",
    }.items(),
)
def test_what_cannot_be_loaded_is_a_problem_with_its_place(notes: Registry, entry: str, why: str) -> None:
    Path("folder").mkdir()
    for name in ("json.py", "yaml.py", "my-ops.py"):
        Path(name).write_text(OPERATORS)
    Path("latin.py").write_bytes(b"NAME = '\xe9'\n")
    said = problems_of(PIPELINE.replace("my_ops.py", f"my_ops.py, '{entry}'"))
    assert why in said
    assert "p.yaml:3:28: " in said


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import helper_beside\n" + OPERATORS, "must be named under `operators:`, too"),
        (OPERATORS.replace("note: Note)", "note)"), "my_ops.py:10: operator mark: 'note' has no annotation"),
        (OPERATORS + "\n1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_code_that_cannot_be_imported_names_its_place(notes: Registry, source: str, why: str) -> None:
    Path("my_ops.py").write_text(source)
    said = problems_of(PIPELINE)
    assert why in said
    assert "my_ops.py" in said


def test_a_broken_file_is_reported_at_its_name_once_also_if_no_step_uses_it(notes: Registry) -> None:
    Path("broken.py").write_text(OPERATORS.replace("note: Note)", "note)").replace("mark(", "other("))
    said = problems_of(PIPELINE.replace("my_ops.py", "my_ops.py, broken.py"))
    assert said.startswith("p.yaml:3:28: the operators in 'broken' cannot be loaded")
    said = problems_of(PIPELINE.replace("my_ops.py", "my_ops.py, broken.py").replace("op: mark", "op: other"))
    assert said.count("'note' has no annotation") == 1


def test_the_modules_of_another_pipeline_are_gone(notes: Registry) -> None:
    Path("p.yaml").write_text(PIPELINE)
    check(Path("p.yaml"))
    assert "no operator named 'mark'" in problems_of(PIPELINE.replace("operators: [my_ops.py]", ""))
