"""cp_calibrate: thresholds and sets follow the formulas, and samples that cannot be calibrated are refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, PipelineError
from engine.pipeline.check import check
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask, outcomes, run_text
from tests.operators.alignment.conflicts import write
from tests.operators.conformal.sampled_answers import MADE, calibrate, metrics, row, run_conformal, script, varied

pytestmark = pytest.mark.usefixtures("in_process", "workdir")


def test_thresholds_and_sets_follow_the_formulas(registry: Registry) -> None:
    rows = varied(400)
    result = calibrate(registry, *rows, split={"tune": 0.2, "calibrate": 0.4, "evaluate": 0.4})
    assert result.state == "succeeded", result.error
    assert ask(registry, "select kind, type from datasets where name = 'demo/cal.calibration'") == [
        ("calibration", "Calibration")
    ]
    thresholds = [each for (each,) in ask(registry, 'select unnest(thresholds) from "demo/cal.calibration"')]
    by_question = {each["question"]: each for each in rows}
    sets = ask(registry, 'select question, alpha, prediction, covered, abstained from "demo/cal.sets"')
    assert {alpha for _, alpha, *_ in sets} == {0.2, 0.3, 0.5}

    def scores(question: dict[str, Any], weight: float) -> dict[str, float]:
        counts = Counter(question["samples"])
        entropy = -sum(count / 10 * math.log(count / 10) for count in counts.values()) / math.log(10)
        return {text: -count / 10 + weight * entropy for text, count in counts.items()}

    checked = 0
    for question, alpha, prediction, covered, abstained in sets:
        [limit] = [each for each in thresholds if each["alpha"] == alpha]
        if limit["threshold"] is None:
            assert (prediction, covered, abstained) == ([], None, True)
            continue
        given = by_question[question]
        inside = {text for text, score in scores(given, limit["entropy_weight"]).items() if score <= limit["threshold"] + 1e-12}
        assert set(prediction) == inside
        assert covered == (given["answers"][0] in inside)
        checked += 1
    assert checked > 200
    found = metrics(registry)
    assert found["questions calibrate"] == len(ask(registry, 'select unnest(questions) from "demo/cal.calibration"'))
    for alpha in (0.3, 0.5):
        covered = [each[3] for each in sets if each[1] == alpha]
        assert found[f"ecr alpha={alpha}"] == pytest.approx(sum(covered) / len(covered))
        assert found[f"ecr_ci_low alpha={alpha}"] < found[f"ecr alpha={alpha}"] < found[f"ecr_ci_high alpha={alpha}"]
        assert found[f"apss alpha={alpha}"] == pytest.approx(
            sum(len(each[2]) for each in sets if each[1] == alpha) / len(covered)
        )


def test_below_the_smallest_feasible_level_sets_abstain_and_the_level_is_reported(registry: Registry) -> None:
    calibrate(registry, *varied(300, missing=0.25))
    [(smallest, low, high)] = ask(
        registry, 'select smallest_alpha, smallest_alpha_low, smallest_alpha_high from "demo/cal.calibration"'
    )
    assert 0.2 < low < smallest < high
    assert ask(registry, 'select distinct abstained, covered, len(prediction) from "demo/cal.sets" where alpha = 0.2') == [
        (True, None, 0)
    ]
    found = metrics(registry)
    assert found["feasible alpha=0.2"] == 0
    assert found["feasible alpha=0.5"] == 1
    assert found["abstained alpha=0.2"] == 1
    assert "ecr alpha=0.2" not in found, "what makes no promise is not measured against one"


def test_at_an_infeasible_level_all_samples_or_an_error_can_be_requested(registry: Registry) -> None:
    calibrate(registry, *varied(300, missing=0.25), on_infeasible="sampled")
    [(covered, least)] = ask(registry, 'select avg(covered::int), min(len(prediction)) from "demo/cal.sets" where alpha = 0.2')
    assert least >= 2
    assert covered < 0.8
    result = calibrate(registry, *varied(300, missing=0.25), on_infeasible="fail")
    assert result.state == "failed"
    assert re.search(
        r"alpha 0.2 is infeasible for \(all\): the smallest feasible alpha for all questions is 0\.2\d\d", result.error
    )


def test_none_of_these_is_an_answer_that_makes_every_level_feasible(registry: Registry) -> None:
    calibrate(registry, *varied(600, missing=0.25), none_of_these=True, alphas=[0.1, 0.2])
    found = metrics(registry)
    for alpha in (0.1, 0.2):
        assert found[f"feasible alpha={alpha}"] == 1
        assert found[f"ecr_ci_high alpha={alpha}"] >= 1 - alpha
    right = 'select count(*) from "demo/cal.sets" where abstained and covered and len(prediction) < 3'
    assert ask(registry, right)[0][0] > 0


def test_a_text_that_names_no_option_counts_as_a_sample_but_is_never_in_a_set(registry: Registry) -> None:
    rows = [
        {
            "question": f"question {number}",
            "answers": ["B"],
            "options": ["red", "green", "blue"],
            "samples": ["no idea"] * 5 + (["B"] * 3 + ["red"] * 2 if number % 3 else ["C"] * 4 + ["hm"]),
            "made": MADE,
        }
        for number in range(120)
    ]
    assert calibrate(registry, *rows, alphas=[0.3, 0.5]).state == "succeeded"
    predicted = ask(
        registry,
        'select distinct unnest(prediction) from "demo/cal.sets" union '
        'select distinct unnest(prediction) from "demo/cal.baselines" order by 1',
    )
    assert predicted == [("blue",), ("green",)]
    [(threshold,)] = ask(
        registry, 'select t.threshold from (select unnest(thresholds) t from "demo/cal.calibration") where t.alpha = 0.5'
    )
    assert threshold == -0.3, "of all ten samples, three said so"
    result = calibrate(registry, *rows, alphas=[0.1], on_infeasible="sampled")
    assert result.state == "succeeded", result.error
    assert ask(registry, 'select max(len(prediction)) from "demo/cal.sets"') == [(2,)]


def test_questions_with_and_without_options_may_be_mixed(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: "A" if number % 3 else "red")
    options = {"options": ["red", "blue"]}
    write(
        "questions.jsonl",
        *({"question": f"What is {n}?", "answers": ["red"], **(options if n % 2 else {})} for n in range(30)),
    )
    steps = {
        "ask": {"op": "sample_answers", "in": "questions", "with": {"samples": 4}},
        "cal": {"op": "cp_calibrate", "in": "ask", "with": {"similarity": False, "alphas": [0.5]}},
    }
    result = run_conformal(registry, steps, {"model": json.loads(chat_server.model(temperature=0.8))})
    assert result.state == "succeeded", result.error


def test_samples_and_log_probabilities_must_have_equal_lengths(registry: Registry) -> None:
    with pytest.raises(EngineError, match="logprobs has 2 numbers for 10 samples"):
        calibrate(registry, row(1, 10, logprobs=[-1.0, -2.0]))


def test_options_are_scored_by_the_probability_of_their_letters(registry: Registry) -> None:
    rows = []
    for number in range(200):
        right = number % 3
        logprobs = [-5.0, -5.0, -5.0]
        logprobs[right if number % 5 else (right + 1) % 3] = -0.1
        answer = "ABC"[right] if number % 4 else "ABC"[(right + 1) % 3]
        rows.append(
            {
                "question": f"question {number}",
                "answers": [["red", "green", "blue"][right]],
                "options": ["red", "green", "blue"],
                "samples": [answer] * 6 + ["C", "B", "A"],
                "option_logprobs": logprobs,
                "made": MADE,
            }
        )
    result = calibrate(registry, *rows, alphas=[0.1, 0.3])
    assert result.state == "succeeded", result.error
    [(size, covered)] = ask(
        registry,
        "select avg(len(prediction)), avg(covered::int) from \"demo/cal.baselines\" where method = 'logits' and alpha = 0.3",
    )
    assert size == 1
    assert covered == pytest.approx(0.8, abs=0.1)
    assert ask(registry, 'select distinct unnest(prediction) as p from "demo/cal.sets" order by p') == [
        ("blue",),
        ("green",),
        ("red",),
    ]


def test_groups_have_their_own_thresholds_and_small_ones_share_one(registry: Registry) -> None:
    easy = [each | {"group": "easy"} for each in varied(300, missing=0.1)]
    hard = [each | {"group": "hard", "question": "hard " + each["question"]} for each in varied(300, missing=0.45)]
    rare = [
        each | {"group": f"rare {number}", "question": "rare " + each["question"]} for number, each in enumerate(varied(60))
    ]
    write("samples.jsonl", *easy, *hard, *rare)
    settings = {"group_by": "group", "min_group": 50, "alphas": [0.3], "similarity": False}
    steps = {
        "cal": {"op": "cp_calibrate", "in": "samples", "with": settings},
        "report": {"op": "lofreecp_report", "in": {"sets": "cal.sets", "calibration": "cal.calibration"}},
    }
    result = run_conformal(registry, steps)
    assert result.state == "succeeded", result.error
    [(thresholds, categories)] = ask(registry, 'select thresholds, categories from "demo/cal.calibration"')
    assert categories == ["easy", "hard"]
    feasible = {each["category"]: each["threshold"] is not None for each in thresholds}
    assert feasible == {"easy": True, "hard": False, "(others)": True}
    by_group = dict(
        ask(
            registry,
            'select "group", avg(abstained::int) from "demo/cal.sets" where "group" in (\'easy\', \'hard\') group by 1',
        )
    )
    assert by_group == {"easy": 0, "hard": 1}
    assert "cov_gap alpha=0.3" in metrics(registry)
    [(text,)] = ask(registry, 'select text from "demo/report"')
    groups = dict(
        re.findall(r"^\| 0\.3 \| (easy|hard|\(others\)) \| \d+ \| (\S+) ", text.split("## Thresholds")[0], re.MULTILINE)
    )
    assert groups.keys() == {"easy", "hard", "(others)"}
    assert groups["hard"] == "-", "no set with a guarantee"
    assert 60 < float(groups["easy"].removesuffix("%")) < 95


def test_samples_that_are_all_equal_are_refused(registry: Registry) -> None:
    result = calibrate(registry, *(row(number, 10) for number in range(60)))
    assert result.state == "failed"
    assert "all samples of each of 60 questions are equal" in result.error
    assert "ignore the temperature" in result.error


def test_group_by_without_groups_is_an_error(registry: Registry) -> None:
    result = calibrate(registry, *varied(60), group_by="group")
    assert result.state == "failed"
    assert "group_by: no question has a `group`" in result.error


def test_all_questions_may_be_in_the_calibration_split(registry: Registry) -> None:
    write("samples.jsonl", *varied(40))
    settings = {"alphas": [0.3, 0.5], "similarity": False, "split": {"tune": 0, "calibrate": 1, "evaluate": 0}}
    result = run_conformal(
        registry,
        {
            "cal": {"op": "cp_calibrate", "in": "samples", "with": settings},
            "report": {"op": "lofreecp_report", "in": {"sets": "cal.sets", "calibration": "cal.calibration"}},
        },
    )
    assert result.state == "succeeded", result.error
    found = metrics(registry)
    assert found["feasible alpha=0.5"] == 1
    assert not {"ecr alpha=0.5", "ecr_band_low alpha=0.5", "evaluated_recall"} & found.keys()
    [(text,)] = ask(registry, 'select text from "demo/report"')
    assert "Calibrated on 40 questions" in text
    assert "No set has a guarantee" in text


def test_samples_made_in_two_ways_are_refused_with_the_differences(registry: Registry) -> None:
    rows = varied(20)
    rows[7]["made"] = MADE | {"model": "openai other", "samples": 12}
    result = calibrate(registry, *rows)
    assert result.state == "failed"
    assert "made in more than one way" in result.error
    assert "model: openai m and openai other; samples: 10 samples and 12 samples" in result.error
    assert "'question 7'" in result.error


def test_questions_without_answers_are_left_out_and_none_with_answers_is_an_error(registry: Registry) -> None:
    calibrate(registry, *varied(100), row(1000, 5, 5) | {"answers": []})
    sizes = metrics(registry)
    assert sum(sizes[f"questions {side}"] for side in ("tune", "calibrate", "evaluate")) == 100
    result = calibrate(registry, *(each | {"answers": []} for each in varied(10)))
    assert "no question has accepted answers" in result.error
    result = calibrate(registry, varied(1)[0], split={"tune": 0.9, "calibrate": 0.05, "evaluate": 0.05})
    assert "the calibration split is empty" in result.error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": [1.5]}, "alphas"),
        ({"alphas": []}, "alphas"),
        ({"alphas": [0.3, 0.1, 0.3]}, "0.3 is repeated"),
        ({"group_by": "group", "split": {"tune": 0, "calibrate": 0.5, "evaluate": 0.5}}, "set `tune` in `split` above 0"),
        ({"loss": "distance"}, "remove `similarity: false`"),
        ({"split": {"tune": 0.9}}, "add up to 1"),
        ({"equivalence": "fuzzy"}, "exact"),
        ({"groupby": "group"}, "did you mean 'group_by'"),
    ],
)
def test_wrong_parameters_are_reported_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    write("samples.jsonl", *varied(3))
    step = {"op": "cp_calibrate", "in": "samples", "with": {"similarity": False, **settings}}
    document = {
        "name": "demo",
        "datasets": {"samples": {"type": "SampledAnswers", "path": "samples.jsonl"}},
        "steps": {"cal": step},
    }
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match=re.escape(message)):
        check(Path("p.yaml"))


def test_a_calibration_is_reproducible_and_its_rows_are_its_lineage(registry: Registry) -> None:
    rows = varied(120)
    first = calibrate(registry, *rows)
    assert outcomes(calibrate(registry, *rows)) == {"cal": "hit"}
    again = Registry(Path("again"))
    second = calibrate(again, *rows)
    assert [m.content_id for m in first.steps[0].outputs] == [m.content_id for m in second.steps[0].outputs]
    parents = ask(registry, "select count(distinct parent_row) from row_lineage where child = 'demo/cal.calibration'")
    found = metrics(registry)
    assert parents == [(found["questions tune"] + found["questions calibrate"],)]
    [(row_of_set, question)] = ask(registry, 'select row, question from "demo/cal.sets" limit 1')
    [(parent,)] = ask(
        registry, f"select parent_row from row_lineage where child = 'demo/cal.sets' and child_row = {row_of_set}"
    )
    assert ask(registry, f'select question from "demo/samples" where row = {parent}') == [(question,)]


def test_rewrites_of_the_same_seed_stay_on_the_same_side(registry: Registry, chat_server: ChatServer) -> None:
    def answer(prompt: str, seen: int) -> str:
        number = re.search(r"(\d+) \+ 1", prompt)
        if number is None:
            return f"word {len(chat_server.requests)}"  # the engine's probes of the server
        value = int(number[1]) + 1
        if "Rewrite" in prompt:
            who = re.search(r"Persona: (.*)", prompt)
            assert who
            return f"In the world of {who[1]}, what is {number[1]} + 1?"
        if prompt.endswith("Answer:") and seen % 2:
            return "I do not know"
        return f"\\boxed{{{value}}}"

    chat_server.answer = answer
    write("problems.jsonl", *({"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(12)))
    write("personas.jsonl", *({"persona": name} for name in ("a baker", "a pilot", "a nurse")))
    role = json.loads(chat_server.model(temperature=0.5, retries=0))
    document = {
        "name": "demo",
        "models": {"teacher": role, "model": role},
        "datasets": {
            "problems": {"type": "MathProblem", "path": "problems.jsonl"},
            "personas": {"type": "Persona", "path": "personas.jsonl"},
        },
        "steps": {
            "cot": {"op": "regenerate_cot", "in": "problems"},
            "augment": {
                "op": "persona_augment",
                "in": {"solution": "cot.solved", "personas": "personas"},
                "with": {"personas_per_problem": 3, "check_quantities": False},
            },
            "questions": {"op": "to_questions", "in": ["cot.solved", "augment.solved"]},
            "ask": {"op": "sample_answers", "in": "questions", "with": {"samples": 2}},
            "cal": {
                "op": "cp_calibrate",
                "in": "ask",
                "with": {"similarity": False, "equivalence": "math", "alphas": [0.5]},
            },
        },
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    assert ask(registry, 'select count(*) from "demo/ask"') == [(48,)]
    found = metrics(registry)
    assert found["paraphrases"] == 36
    assert sum(found[f"questions {side}"] for side in ("tune", "calibrate", "evaluate")) == 12
