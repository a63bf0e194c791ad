"""cp_predict: sets for new questions, if they were sampled like those of the calibration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.operators.alignment.conflicts import write
from tests.operators.conformal.sampled_answers import MADE, asked, metrics, row, run_conformal, script, varied

pytestmark = pytest.mark.usefixtures("in_process", "workdir")


def predict(registry: Registry, *rows: dict[str, Any], before: list[dict[str, Any]] | None = None, **settings: Any) -> Any:
    write("samples.jsonl", *(before or varied(300)))
    write("new.jsonl", *rows)
    steps = {
        "cal": {"op": "cp_calibrate", "in": "samples", "with": {"alphas": [0.3, 0.5], "similarity": False}},
        "predict": {
            "op": "cp_predict",
            "in": {"samples": "new", "calibration": "cal.calibration"},
            "with": {"similarity": False, **settings},
        },
    }
    return run_conformal(registry, steps)


def fresh(n: int, **more: Any) -> list[dict[str, Any]]:
    return [each | {"question": f"new {each['question']}"} | more for each in varied(n)]


def test_new_questions_get_the_sets_of_the_calibration(registry: Registry) -> None:
    result = predict(registry, *fresh(150), *varied(3), *(each | {"answers": []} for each in fresh(200)[150:]))
    assert result.state == "succeeded", result.error
    assert ask(registry, 'select alpha, count(*), count(covered) from "demo/predict" group by 1 order by 1') == [
        (0.3, 203, 153),
        (0.5, 203, 153),
    ]
    found = metrics(registry, "demo/predict")
    assert found["ecr_ci_high alpha=0.3"] >= 0.7
    assert found["drift_p_value"] > 0.05
    assert 0 <= found["calibrated_on"] <= 3
    assert not [name for name in found if "nan" in str(found[name])]


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model", {"model": "openai other"}, "model: openai m and openai other"),
        ("prompt", {"prompt": "Say:"}, "prompt: 'p' and 'Say:'"),
        ("sampling", {"sampling": '{"temperature": 1}'}, 'sampling: {} and {"temperature": 1}'),
        ("samples", {"samples": 20}, "samples: 10 samples and 20 samples"),
        ("samples", {"at_least": 5, "patience": 4}, "10 samples and 5 to 10 samples, until 4 bring nothing new"),
    ],
)
def test_samples_made_differently_are_refused_unless_allowed(
    registry: Registry, part: str, changes: dict[str, Any], message: str
) -> None:
    rows = fresh(30, made=MADE | changes)
    result = predict(registry, *rows)
    assert result.state == "failed"
    assert message in result.error
    assert f"allow: [{part}]" in result.error
    result = predict(registry, *rows, allow=[part])
    assert result.state == "succeeded", result.error


def test_with_the_calibration_as_input_differences_are_reported_before_the_first_call(
    registry: Registry, chat_server: ChatServer
) -> None:
    script(chat_server, lambda prompt, number: f"answer {number % 3}")
    many = [{"question": f"What is {number}?", "answers": ["answer 0"]} for number in range(40)]
    write("questions.jsonl", *many)
    models = {"model": json.loads(chat_server.model(temperature=0.8, retries=0))}
    calibrating = {
        "ask": {"op": "sample_answers", "in": "questions", "with": {"samples": 4}},
        "cal": {"op": "cp_calibrate", "in": "ask", "with": {"similarity": False, "alphas": [0.5]}},
    }
    again = {"question": "questions", "calibration": "cal.calibration"}
    more = {**calibrating, "more": {"op": "sample_answers", "in": again, "with": {"samples": 4}}}
    result = run_conformal(registry, more, models)
    assert result.state == "succeeded", result.error
    before = len(asked(chat_server))
    more["more"]["with"] = {"samples": 5}
    result = run_conformal(registry, more, models)
    assert result.state == "failed"
    assert "They differ in samples: 4 samples and 5 samples" in result.error
    assert len(asked(chat_server)) == before


def test_a_few_easy_questions_may_have_one_answer_each_but_not_many(registry: Registry) -> None:
    easy = [row(number, 10) | {"question": f"easy {number}"} for number in range(20)]
    assert predict(registry, *easy[:9]).state == "succeeded"
    result = predict(registry, *easy)
    assert "all samples of each of 20 questions are equal" in result.error


def test_samples_of_unknown_origin_are_refused(registry: Registry) -> None:
    result = predict(registry, *fresh(30, made=None))
    assert "some samples do not record how they were made" in result.error


def test_a_level_that_was_not_calibrated_is_an_error(registry: Registry) -> None:
    result = predict(registry, *fresh(30), alphas=[0.1])
    assert "alpha 0.1 was not calibrated; the calibrated levels are 0.3, 0.5" in result.error


def test_drift_is_measured_and_may_fail_the_step(registry: Registry) -> None:
    spread = [row(number, 3, 2, 2, 2, 1) | {"question": f"other {number}"} for number in range(60)]
    assert predict(registry, *spread).state == "succeeded"
    found = metrics(registry, "demo/predict")
    assert found["drift_p_value"] == 0.001
    assert found["drift entropy"] > 0.5
    assert found["drift top_share"] < -0.5
    result = predict(registry, *spread, drift_level=0.01)
    assert "differ from the calibration questions: p = 0.001" in result.error


def test_no_new_questions_give_no_sets(registry: Registry) -> None:
    result = predict(registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, 'select count(*) from "demo/predict"') == [(0,)]
