"""The shipped LofreeCP pipelines, whole: a scripted model on a real server, the embedded encoder."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
from registry import Registry, Report
from tests.chat_server import ChatServer, completion
from tests.conftest import Cli
from tests.engine.run_pipelines import ask, outcomes, run_text

FILES = Path(pipelines.__file__).parent


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends only on the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) / 2**64


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """Answer with the right number, a neighbouring one, or nonsense; how often depends on the question."""
    found = re.search(r"code of (\w+)\?", body["messages"][-1]["content"])
    if found is None:
        return completion(f"word {draw(json.dumps(body), reply.calls)}")
    ease, luck = draw(found[1]), draw(found[1], body["seed"])
    right = f"code {found[1]}"
    return completion(right if luck < ease else f"no {right}" if luck < ease + 0.2 else f"other {luck * 4:.0f}")


reply.calls = 0  # type: ignore[attr-defined]


def questions(file: str, *names: str, known: bool = True) -> None:
    rows = [{"question": f"What is the code of {name}?", "answers": [f"The code {name}."] if known else []} for name in names]
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


def document(server: ChatServer, name: str, **params: Any) -> str:
    whole: dict[str, Any] = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    whole["models"]["model"] |= {"base_url": server.base_url, "seed": 1}
    del whole["models"]["model"]["api_key_env"]
    whole["params"] |= params
    return json.dumps(whole)


@pytest.mark.usefixtures("in_process")
def test_from_questions_to_sets_with_a_guarantee_and_to_new_questions(
    registry: Registry, chat_server: ChatServer, engine: Cli
) -> None:
    def varied(body: dict[str, Any]) -> dict[str, Any]:
        reply.calls += 1  # type: ignore[attr-defined]
        return reply(body)

    chat_server.reply = varied
    questions("questions.jsonl", *(f"N{number}" for number in range(300)))
    text = document(chat_server, "lofreecp", samples=8)
    result = run_text(text, registry)
    assert result.state == "succeeded", result.error

    levels = """select alpha, count(*), avg(covered::int), avg(len(prediction)), avg(abstained::int)
        from "lofreecp/calibrate.sets" group by 1 order by 1"""
    measured = {alpha: rest for alpha, *rest in ask(registry, levels)}
    [(smallest,)] = ask(registry, 'select smallest_alpha from "lofreecp/calibrate.calibration"')
    assert 0.05 < smallest < 0.3
    for alpha, (tested, covered, size, abstained) in measured.items():
        if alpha < smallest:
            assert (covered, size, abstained) == (None, 0, 1)
        else:
            assert covered > 1 - alpha - 4 * (alpha * (1 - alpha) / tested * 2) ** 0.5
            assert abstained == 0
    assert measured[0.3][2] > measured[0.5][2], "smaller levels, larger sets"

    [report] = registry.records("lofreecp/report@1", Report)
    assert {file.name for file in report.files} == {"reliability.png", "size.png", "strata.png"}
    for expected in ("| 0.5 | LofreeCP |", "| 0.5 | First-K |", "smallest feasible alpha is", "| 0.05 | (all) |", "infeasible"):
        assert expected in report.text

    # From a set back to the question and the samples that it was made of.
    assert ask(registry, "select distinct name from upstream('lofreecp/calibrate.sets@1') order by name") == [
        ("lofreecp/questions",),
        ("lofreecp/sample",),
    ]
    calls = "select len(call_ids) from trace('lofreecp/calibrate.sets@1', 0) where name = 'lofreecp/sample'"
    assert ask(registry, calls) == [(8,)]

    asked = len(chat_server.requests)
    assert set(outcomes(run_text(text, registry)).values()) == {"hit"}
    assert len(chat_server.requests) == asked

    questions("new.jsonl", *(f"M{number}" for number in range(40)), known=False)
    predict = document(chat_server, "lofreecp-predict", samples=8, questions="new.jsonl")
    result = run_text(predict, registry)
    assert result.state == "succeeded", result.error
    sets = 'select count(*), count(covered), count(distinct alpha) from "lofreecp-predict/sets"'
    assert ask(registry, sets) == [(40 * len(measured), 0, len(measured))]
    result = run_text(document(chat_server, "lofreecp-predict", samples=6, questions="new.jsonl"), registry)
    assert "samples: 8 samples and 6 samples" in (result.error or "")

    listed = engine("ls")
    assert re.search(r"lofreecp/calibrate.calibration +calibration", listed.stdout), listed.stdout
    shown = engine("show", "lofreecp/calibrate.calibration")
    assert shown.returncode == 0, shown.stderr
    assert "smallest_alpha" in shown.stdout


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_offline_pipeline_runs_by_its_name_in_an_empty_folder(engine: Cli) -> None:
    run = engine("run", "lofreecp-mini", timeout=1500)
    assert run.returncode == 0, run.stderr
    assert "smallest feasible alpha" in run.stdout
    again = engine("run", "lofreecp-mini")
    assert "unchanged" in again.stdout
