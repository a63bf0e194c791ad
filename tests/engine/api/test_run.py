"""`engine.run`, `engine.plan` and `engine.check` from a program."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import engine
from tests.chat_server import ChatServer
from tests.engine.api.conftest import PIPELINE
from tests.engine.run_pipelines import words


def test_a_run_returns_its_state_outputs_and_steps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = engine.run("p.yaml")
    assert (run.state, run.error, run.pipeline, run.moved_latest) == ("succeeded", None, "demo", True)
    assert {name: output.ref for name, output in run.outputs.items()} == {
        "loud": "demo/loud@1",
        "parts.long": "demo/parts.long@1",
        "parts.short": "demo/parts.short@1",
    }
    assert run.outputs["loud"].arrow()["text"].to_pylist()[0] == "HEY!"
    assert (run.steps["parts"].outcome, run.steps["parts"].rejected) == ("ran", 1)
    assert run.reject_reasons["parts"] == {"it is bad": 1}
    assert run.registry.sql("select state from runs").to_pylist() == [{"state": "succeeded"}]
    assert "2 ran" in repr(run)
    assert json.loads(json.dumps(run.as_dict()))["steps"][0]["step"] == "loud"
    out, err = capsys.readouterr()
    assert (out, "loud: ran: 5 rows in" in err) == ("", True)
    assert engine.run(Path("p.yaml"), quiet=True).steps["loud"].outcome == "hit"
    assert capsys.readouterr() == ("", "")


def test_every_variant_of_a_matrix_is_a_step_of_the_run(here: Path) -> None:
    text = Path("p.yaml").read_text()
    Path("p.yaml").write_text(text + "\nmatrix: {at: [3, 4]}\n")
    run = engine.run("p.yaml", quiet=True)
    assert sorted(run.steps) == ["at=3/parts", "at=4/parts", "loud"]
    assert sorted(run.notes) == sorted(run.reject_reasons) == sorted(run.steps)
    checked = engine.check("p.yaml", matrix={"at": [5], "mark": ("a", "b")})
    assert checked.steps == ("mark=a/loud", "mark=b/loud", "at=5/parts")
    assert {row["status"] for row in engine.plan("p.yaml", matrix={"at": [3]}) if row["step"] != "words"} == {"HIT"}


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        ({"att": [1]}, r"no parameter named 'att'\n    did you mean 'at'?"),
        ({"at": 1}, "matrix.at: give a list of values"),
        ({"at": []}, "matrix.at: give a list of values"),
        ({"at": [[1]]}, "matrix.at: a value must be a string, a number"),
        ({"at": [object()]}, "matrix={'at': ...}: a parameter cannot be of type object"),
        ({"mark": ["sk-proj-" + 48 * "a1"]}, "matrix={'mark': ...}: this is an API key"),
    ],
)
def test_an_invalid_matrix_is_refused(here: Path, matrix: Any, text: str) -> None:
    with pytest.raises(engine.PipelineError) as caught:
        engine.check("p.yaml", matrix=matrix)
    assert text.replace("\\n", "\n") in str(caught.value)


def test_an_unknown_output_gets_a_suggestion_or_a_list(here: Path) -> None:
    run = engine.run("p.yaml", quiet=True)
    with pytest.raises(KeyError) as caught:
        run.outputs["parts.lon"]
    assert str(caught.value) == "there is no output 'parts.lon'; did you mean 'parts.long'?"
    with pytest.raises(engine.UnknownNameError, match=r"no output 'zzz'; available: loud, parts.long, parts.short"):
        run.outputs["zzz"]


def test_settings_are_python_values(here: Path) -> None:
    import numpy as np

    run = engine.run("p.yaml", set={"at": np.int64(3), "mark": "no"}, quiet=True)
    assert run.outputs["loud"].head(1) == [{"text": "HEYno"}]  # `no` on a command line would be False
    assert run.outputs["parts.short"].head(1) == [{"text": "hey"}]
    assert run.moved_latest  # the first versions of all
    trial = engine.run("p.yaml", set={"at": 1}, quiet=True)
    assert not trial.moved_latest
    assert engine.run("p.yaml", set={"at": 1}, latest=True, quiet=True).moved_latest


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"set": {"att": 1}}, r"set={'att': ...}: the pipeline has no parameter 'att'\n    did you mean 'at'?"),
        ({"set": {"at": object()}}, "set={'at': ...}: a parameter cannot be of type object"),
        ({"set": {"mark": "sk-" + "a" * 30}}, "set={'mark': ...}: this is an API key"),
        ({"set": {"mark": ["sk-" + "a" * 30]}}, "set={'mark': ...}: this is an API key"),
        ({"select": "lod"}, "select=lod: the pipeline has no such step\n    did you mean 'loud'?"),
        ({"force": ["loud", "lod"]}, "force=lod: the pipeline has no such step"),
        ({"registry": "words.jsonl"}, "the registry words.jsonl is a file, not a folder"),
    ],
)
def test_wrong_arguments(here: Path, given: dict[str, Any], text: str) -> None:
    with pytest.raises(engine.PipelineError) as caught:
        engine.run("p.yaml", quiet=True, **given)
    assert text.replace("\\n", "\n") in str(caught.value)
    assert not Path(".engine").exists()


def test_all_mistakes_in_a_pipeline_are_reported_with_their_positions(here: Path) -> None:
    Path("p.yaml").write_text(PIPELINE.replace("shout", "shoot").replace("type: Word", "type: Wod"))
    for ask in (engine.run, engine.plan, engine.check):
        with pytest.raises(engine.PipelineError) as caught:
            ask("p.yaml")
        assert [str(problem.position) for problem in caught.value.problems] == ["p.yaml:3:26", "p.yaml:5:14"]
    with pytest.raises(engine.PipelineError, match=r"there is no pipeline file q.yaml"):
        engine.run("q.yaml")


def test_select_and_force_take_a_string_or_a_list(here: Path) -> None:
    assert list(engine.run("p.yaml", select="loud", quiet=True).steps) == ["loud"]
    assert list(engine.run("p.yaml", select=["loud", "parts"], quiet=True).steps) == ["loud", "parts"]
    forced = engine.run("p.yaml", force="loud", quiet=True)
    assert {name: step.outcome for name, step in forced.steps.items()} == {"loud": "ran", "parts": "hit"}


def test_the_registry_is_a_folder_an_open_registry_or_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.run("p.yaml", registry=here / "there", quiet=True).registry.location == str(here / "there")
    there = engine.open("there")
    assert engine.run("p.yaml", registry=there, quiet=True).steps["loud"].outcome == "hit"
    monkeypatch.setenv("ENGINE_REGISTRY", "there")
    assert engine.run("p.yaml", quiet=True).steps["loud"].outcome == "hit"
    assert not Path(".engine").exists()


def test_a_failed_run_raises_and_keeps_what_is_finished(here: Path) -> None:
    Path("p.yaml").write_text(PIPELINE.replace("0.5", "0"))
    with pytest.raises(engine.RunError) as caught:
        engine.run("p.yaml", quiet=True)
    run = caught.value.run
    assert run.state == "failed"
    assert run.error is not None
    assert str(caught.value) == f"{run.error}\nFinished work is kept. To continue, run it again."
    assert "parts" in run.error
    assert list(run.outputs) == ["loud"]
    assert run.steps["parts"].outcome == "failed"
    again = engine.run("p.yaml", quiet=True, raise_on_failure=False)
    assert (again.state, again.steps["loud"].outcome) == ("failed", "hit")
    with pytest.raises(engine.EngineError, match="parts"):
        again.raise_for_failure()


def test_a_plan_has_the_rows_of_the_command(here: Path) -> None:
    rows = engine.plan("p.yaml", why=True)
    assert [(row["step"], row["status"]) for row in rows] == [("words", "READ"), ("loud", "RUN"), ("parts", "RUN")]
    assert not Path(".engine").exists()
    engine.run("p.yaml", quiet=True)
    assert {row["status"] for row in engine.plan("p.yaml")} == {"HIT"}
    assert [row["step"] for row in engine.plan("p.yaml", select="loud")] == ["words", "loud"]


def test_a_check_returns_the_name_datasets_and_steps(here: Path) -> None:
    checked = engine.check("p.yaml", set={"at": 5})
    assert (checked.name, checked.datasets, checked.steps) == ("demo", ("words",), ("loud", "parts"))


LOGPROBS = """\
name: demo
models: {{teacher: {{provider: openai, model: m, base_url: "{url}", retries: 0}}}}
datasets: {{words: {{type: Word, path: words.jsonl}}}}
steps: {{sure: {{op: sure, in: words}}}}
"""


def test_it_runs_inside_a_running_event_loop(here: Path, chat_server: ChatServer) -> None:
    """As in a notebook. A step that needs a capability asks the server for it, from the driver."""

    async def main() -> engine.Run:
        return engine.run("q.yaml", quiet=True, raise_on_failure=False)

    Path("q.yaml").write_text(LOGPROBS.format(url=chat_server.base_url))
    assert "does not support `logprobs`" in str(asyncio.run(main()).error)
    assert chat_server.requests


def test_it_runs_in_another_thread(here: Path) -> None:
    found: list[engine.Run] = []
    thread = threading.Thread(target=lambda: found.append(engine.run("p.yaml", quiet=True)))
    thread.start()
    thread.join()
    assert found[0].state == "succeeded"


def test_a_process_executes_one_run_at_a_time(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[engine.Run] = []
    threads = [threading.Thread(target=lambda: found.append(engine.run("p.yaml", force="loud"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.state for run in found] == ["succeeded", "succeeded"]
    assert "waiting for another run of this process" in capsys.readouterr().err


def test_registries_are_read_while_a_run_is_under_way_in_another_thread(here: Path) -> None:
    engine.run("p.yaml", quiet=True)
    registry = engine.open()
    done = threading.Event()

    def keep_running() -> None:
        for number in range(4):
            engine.run("p.yaml", set={"mark": f"{number}"}, quiet=True)
        done.set()

    thread = threading.Thread(target=keep_running)
    thread.start()
    while not done.is_set():
        assert registry["demo/loud@1"].arrow().num_rows == 5
        assert registry.sql("select count(*) as n from versions")["n"][0].as_py() >= 3
        assert "demo/loud" in list(registry)
    thread.join()


def test_an_interrupt_raises_an_exception_with_the_run(here: Path, chat_server: ChatServer) -> None:
    chat_server.latency = 30.0
    text = LOGPROBS.replace("op: sure", "op: ask_once").replace("steps: {{", "steps: {{loud: {{op: shout, in: words}}, ")
    Path("q.yaml").write_text(text.format(url=chat_server.base_url))

    def press() -> None:
        deadline = time.monotonic() + 20
        while not chat_server.requests and time.monotonic() < deadline:
            time.sleep(0.05)
        for _ in range(2):  # the first waits for answers that are paid for
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    before = signal.getsignal(signal.SIGINT)
    presser.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.run("q.yaml", quiet=True)
    presser.join()
    assert isinstance(caught.value, engine.RunInterrupted)
    assert caught.value.run.state == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_programs_own_ray_is_used_and_left_running(ray_session: None, workdir: Path) -> None:
    import ray

    Path("p.yaml").write_text(PIPELINE)
    words("hey")

    async def main() -> engine.Run:
        return engine.run("p.yaml", quiet=True)

    assert asyncio.run(main()).state == "succeeded"
    assert ray.is_initialized()


def test_a_notebook_gets_lines_and_no_bars(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # set by Jupyter's kernel
    engine.run("p.yaml")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)


def test_code_that_was_edited_after_it_was_loaded_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.api import code_changes

    engine.run("p.yaml", quiet=True)
    [file] = [file for file in code_changes._known if file.endswith("scratch_ops.py")]
    monkeypatch.setitem(code_changes._known, file, (1, 1))
    with pytest.raises(engine.EngineError, match=r"scratch_ops.py has changed.*Restart the kernel"):
        engine.run("p.yaml", quiet=True)


def test_texts_of_a_run_are_escaped_in_a_notebook(here: Path) -> None:
    run = engine.run("p.yaml", quiet=True)
    assert "<td" in run._repr_html_()
    assert "loud" in run._repr_html_()


def test_results_may_be_at_a_url(here: Path, s3: str) -> None:
    url = f"s3://bucket/{uuid.uuid4().hex}"
    with pytest.raises(engine.PipelineError, match=f"there is no registry at {url}"):
        engine.open(url)
    run = engine.run("p.yaml", registry=url, quiet=True)
    assert run.registry.location == url
    assert engine.open(url)["demo/loud"].head(1) == [{"text": "HEY!"}]
    assert engine.run("p.yaml", registry=engine.open(url), quiet=True).steps["loud"].outcome == "hit"
