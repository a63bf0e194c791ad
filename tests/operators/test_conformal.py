"""LofreeCP's operators: sampling from a real server, calibrations tied to how samples were made, sets by the formulas."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from tests.chat_server import ChatServer, completion
from tests.engine.run_pipelines import ask, outcomes, run_text
from tests.operators.conflicts import write

pytestmark = pytest.mark.usefixtures("in_process", "workdir")

MADE = {"model": "openai m", "prompt": "p", "sampling": "{}", "samples": 10}


def row(number: int, *counts: int, right: int | None = 0, **more: Any) -> dict[str, Any]:
    """SampledAnswers with answer 0 sampled counts[0] times, ...; answer `right` is accepted (None: it was not sampled)."""
    texts = [f"answer {place}" for place, count in enumerate(counts) for _ in range(count)]
    accepted = "something else" if right is None else f"answer {right}"
    return {"question": f"question {number}", "answers": [accepted], "samples": texts, "made": MADE, **more}


def varied(n: int, missing: float = 0.2, **more: Any) -> list[dict[str, Any]]:
    """Questions whose right answer is the first, the second, the third, or was never sampled."""
    made = []
    for number in range(n):
        place = number * 0.6180339887 % 1  # spread evenly, in no order
        right = None if place < missing else 0 if place < 0.7 else 1 if place < 0.9 else 2
        top = 4 + number % 6
        made.append(row(number, top, 9 - top + 1 if top < 9 else 1, *([1] if top < 8 else []), right=right, **more))
    return made


def run_conformal(registry: Registry, steps: dict[str, Any], models: dict[str, Any] | None = None, **how: Any) -> Any:
    """Run steps on `samples.jsonl`, and on other files of the record types if they exist."""
    files = {"samples": "SampledAnswers", "new": "SampledAnswers", "questions": "Question"}
    datasets = {
        name: {"type": record, "path": f"{name}.jsonl", "allow_empty": True}
        for name, record in files.items()
        if Path(f"{name}.jsonl").exists()
    }
    return run_text(json.dumps({"name": "demo", "models": models or {}, "datasets": datasets, "steps": steps}), registry, **how)


def calibrate(registry: Registry, *rows: dict[str, Any], **settings: Any) -> Any:
    write("samples.jsonl", *rows)
    given = {"alphas": [0.2, 0.3, 0.5], "similarity": False, **settings}
    return run_conformal(registry, {"cal": {"op": "cp_calibrate", "in": "samples", "with": given}})


def metrics(registry: Registry, name: str = "demo/cal.calibration") -> dict[str, float]:
    return {
        f"{metric} {part}".strip(): value
        for metric, part, value in ask(registry, f"select metric, slice, value from metrics where name = '{name}'")
    }


# -- sampling --------------------------------------------------------------------------------------------------------------


def sample(
    registry: Registry, server: ChatServer, *questions: dict[str, Any], temperature: float = 0.8, **settings: Any
) -> Any:
    write("questions.jsonl", *questions)
    models = {"model": json.loads(server.model(temperature=temperature, retries=0, seed=5))}
    return run_conformal(registry, {"ask": {"op": "sample_answers", "in": "questions", "with": settings}}, models)


def script(server: ChatServer, say: Callable[[str, int], str]) -> None:
    """Make the server answer questions by (prompt, sample number), and anything else differently each time."""

    def reply(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        if prompt.endswith("Answer:"):
            return completion(say(prompt, body.get("seed", 5) - 5))
        return completion(f"word {len(server.requests)}")

    server.reply = reply


def asked(server: ChatServer) -> list[str]:
    return [prompt for prompt in server.prompts if prompt.endswith("Answer:")]


FRANCE = {"question": "What is the capital of France?", "answers": ["Paris", "Lutetia"], "group": "capital", "id": "fr"}


def test_sampled_answers_record_how_they_were_made(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: ["Paris", "Lyon", "Paris.", "paris"][number % 4])
    result = sample(registry, chat_server, FRANCE, samples=8)
    assert result.state == "succeeded", result.error
    [(texts, answers, made, group, id)] = ask(registry, 'select samples, answers, made, "group", id from "demo/ask"')
    assert (answers, group, id) == (["Paris", "Lutetia"], "capital", "fr")
    assert Counter(texts) == {"Paris": 2, "Lyon": 2, "Paris.": 2, "paris": 2}
    assert made["samples"] == 8
    assert made["model"] == f"{chat_server.base_url} test-model"
    assert json.loads(made["sampling"])["temperature"] == 0.8
    assert "seed" not in json.loads(made["sampling"])
    assert "{{ question }}" in made["prompt"]
    assert ask(registry, "select count(distinct call_id) from llm_calls where name = 'demo/ask'") == [(8,)]


def test_the_plan_bounds_tokens_by_rows_prompt_and_max_tokens(registry: Registry, chat_server: ChatServer) -> None:
    write("questions.jsonl", FRANCE)
    steps = {"ask": {"op": "sample_answers", "in": "questions", "with": {"samples": 20}}}
    models = {"model": json.loads(chat_server.model(temperature=0.8, max_tokens=16))}
    datasets = {"questions": {"type": "Question", "path": "questions.jsonl"}}
    Path("p.yaml").write_text(json.dumps({"name": "demo", "models": models, "datasets": datasets, "steps": steps}))
    [step] = make_plan(check(Path("p.yaml")), registry, select=set(), force=set()).steps
    assert step.calls == 20
    row, prompt = 200, 300
    assert 20 * 16 < step.tokens < 20 * (row + prompt + 16)


def test_adaptive_sampling_stops_when_nothing_changes(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: "Paris" if "France" in prompt else f"city {number}")
    other = {"question": "Name a city.", "answers": ["city 3"]}
    result = sample(registry, chat_server, FRANCE, other, samples=20, at_least=6, patience=4)
    assert result.state == "succeeded", result.error
    drawn = dict(ask(registry, 'select question, len(samples) from "demo/ask"'))
    assert drawn == {FRANCE["question"]: 6, "Name a city.": 20}
    assert len(asked(chat_server)) == 26
    assert ask(registry, 'select distinct made.at_least, made.patience from "demo/ask"') == [(6, 4)]


def test_a_model_that_does_not_sample_is_an_error(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: f"city {number}")
    with pytest.raises(PipelineError, match="needs a model with a temperature above 0"):
        sample(registry, chat_server, FRANCE, temperature=0)
    assert not asked(chat_server)


def test_a_server_that_ignores_the_temperature_is_detected_before_anything_is_paid(
    registry: Registry, chat_server: ChatServer
) -> None:
    chat_server.answer = lambda prompt, seen: "Paris"
    result = sample(registry, chat_server, FRANCE)
    assert result.state == "failed"
    assert "different answers to the same prompt" in result.error
    assert not asked(chat_server)


def test_a_pattern_extracts_the_answer_from_a_sentence(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: ["It is Paris, I think", "Paris is it", "no idea"][number % 3])
    result = sample(registry, chat_server, FRANCE, samples=3, answer_pattern="It is ([^,]+)|(\\w+) is it")
    assert result.state == "succeeded", result.error
    assert ask(registry, 'select samples, made.answer_pattern from "demo/ask"') == [
        (["Paris", "Paris", "no idea"], "It is ([^,]+)|(\\w+) is it")
    ]


def test_questions_with_options_ask_for_a_letter(registry: Registry, chat_server: ChatServer) -> None:
    script(chat_server, lambda prompt, number: "B")
    many = {"question": "Which?", "answers": ["1"], "options": [str(number) for number in range(27)]}
    wrong = {"question": "Whose?", "answers": ["mine"], "options": ["yours", "ours"]}
    write("questions.jsonl", {**FRANCE, "answers": ["Paris"], "options": ["Rome", "Paris"]}, many, wrong)
    models = {"model": json.loads(chat_server.model(temperature=1))}
    step = {"op": "sample_answers", "in": "questions", "with": {"samples": 2}, "max_reject_ratio": 0.7}
    result = run_conformal(registry, {"ask": step}, models)
    assert result.state == "succeeded", result.error
    assert "A. Rome\nB. Paris\nAnswer:" in asked(chat_server)[0]
    assert ask(registry, 'select options, samples from "demo/ask"') == [(["Rome", "Paris"], ["B", "B"])]
    said = " ".join(reason for (reason,) in ask(registry, "select reason from rejects"))
    assert "27 options; expected 2 to 26" in said
    assert "its options do not include the accepted answer 'mine'" in said
    assert len(asked(chat_server)) == 2, "rejected before anything is paid for"


# -- calibration -----------------------------------------------------------------------------------------------------------


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


def test_baselines_are_calibrated_on_the_same_questions(registry: Registry) -> None:
    rows = [each | {"logprobs": [-0.1 * (index + 1) for index in range(len(each["samples"]))]} for each in varied(300)]
    calibrate(registry, *rows)
    by_method = ask(
        registry, 'select method, count(*), count(distinct question) from "demo/cal.baselines" group by 1 order by 1'
    )
    [(sets, questions)] = ask(registry, 'select count(*), count(distinct question) from "demo/cal.sets"')
    assert by_method == [(method, sets, questions) for method in ("first_k", "frequency", "logits")]
    assert "first_k_ecr alpha=0.5" in metrics(registry)
    sizes = ask(
        registry, "select distinct len(prediction) from \"demo/cal.baselines\" where method = 'first_k' and alpha = 0.5"
    )
    assert len(sizes) <= 2, "the first K answers, or all when there are fewer"


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


def with_options(n: int) -> list[dict[str, Any]]:
    """Questions with three options; the first is right, likely and sampled often."""
    return [
        {
            "question": f"question {number}",
            "answers": ["red"],
            "options": ["red", "green", "blue"],
            "samples": ["A"] * (4 + number % 5) + ["B"] * (6 - number % 5),
            "logprobs": [-1.0] * 10,
            "option_logprobs": [-0.5 - number % 7 / 10, -1.5, -2.0],
            "made": MADE,
        }
        for number in range(n)
    ]


def test_the_logits_baseline_is_evaluated_as_it_was_calibrated(registry: Registry) -> None:
    rows = with_options(100)
    for row_without in rows[:1], rows[50:51]:
        whole = row_without[0]["option_logprobs"]
        row_without[0]["option_logprobs"] = None
        assert calibrate(registry, *rows).state == "succeeded"
        assert metrics(registry)["logits_ecr alpha=0.2"] == 1, "all samples are equally likely"
        row_without[0]["option_logprobs"] = whole
    assert calibrate(registry, *rows).state == "succeeded"
    assert metrics(registry)["logits_ecr alpha=0.5"] < 1


def test_a_baseline_without_a_threshold_abstains_where_lofree_would_fail(registry: Registry) -> None:
    result = calibrate(registry, *varied(200, missing=0.5), none_of_these=True, on_infeasible="fail", alphas=[0.2])
    assert result.state == "succeeded", result.error
    found = metrics(registry)
    assert found["ecr_ci_high alpha=0.2"] >= 0.8
    assert found["frequency_abstained alpha=0.2"] == 1
    assert "frequency_ecr alpha=0.2" not in found


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
        said = "ABC"[right] if number % 4 else "ABC"[(right + 1) % 3]
        rows.append(
            {
                "question": f"question {number}",
                "answers": [["red", "green", "blue"][right]],
                "options": ["red", "green", "blue"],
                "samples": [said] * 6 + ["C", "B", "A"],
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
    assert "all samples of each of the 60 questions are equal" in result.error
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
    assert not {"ecr alpha=0.5", "band_low alpha=0.5", "evaluated_recall"} & found.keys()
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
    ("settings", "said"),
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
def test_wrong_parameters_are_reported_before_anything_runs(settings: dict[str, Any], said: str) -> None:
    write("samples.jsonl", *varied(3))
    step = {"op": "cp_calibrate", "in": "samples", "with": {"similarity": False, **settings}}
    document = {
        "name": "demo",
        "datasets": {"samples": {"type": "SampledAnswers", "path": "samples.jsonl"}},
        "steps": {"cal": step},
    }
    Path("p.yaml").write_text(json.dumps(document))
    with pytest.raises(PipelineError, match=re.escape(said)):
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


# -- new questions ---------------------------------------------------------------------------------------------------------


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
    ("part", "changes", "said"),
    [
        ("model", {"model": "openai other"}, "model: openai m and openai other"),
        ("prompt", {"prompt": "Say:"}, "prompt: 'p' and 'Say:'"),
        ("sampling", {"sampling": '{"temperature": 1}'}, 'sampling: {} and {"temperature": 1}'),
        ("samples", {"samples": 20}, "samples: 10 samples and 20 samples"),
        ("samples", {"at_least": 5, "patience": 4}, "10 samples and 5 to 10 samples, until 4 bring nothing new"),
    ],
)
def test_samples_made_differently_are_refused_unless_allowed(
    registry: Registry, part: str, changes: dict[str, Any], said: str
) -> None:
    rows = fresh(30, made=MADE | changes)
    result = predict(registry, *rows)
    assert result.state == "failed"
    assert said in result.error
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
    assert "all samples of each of the 20 questions are equal" in result.error


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


# -- similarity ------------------------------------------------------------------------------------------------------------

ENCODER = {"encoder": {"provider": "sentence-transformers", "model": "all-minilm-l6-v2"}}


def worded(number: int, **more: Any) -> dict[str, Any]:
    """Answers in words, two of which have the same meaning."""
    texts = ["the United States"] * (4 + number % 3) + ["United States of America"] * 3 + ["a banana"] * (1 + number % 2)
    accepted = ["United States of America"] if number % 4 else ["a submarine"]
    return {"question": f"question {number}", "answers": accepted, "samples": texts[:10], "made": MADE, **more}


def test_similar_answers_score_lower_merge_by_embedding_and_limit_the_distance(registry: Registry) -> None:
    write("samples.jsonl", *map(worded, range(80)))
    settings = {"alphas": [0.4]}
    steps = {
        "plain": {"op": "cp_calibrate", "in": "samples", "with": settings},
        "merged": {
            "op": "cp_calibrate",
            "in": "samples",
            "with": {**settings, "equivalence": "embedding", "min_similarity": 0.8},
        },
        "near": {"op": "cp_calibrate", "in": "samples", "with": {**settings, "loss": "distance"}},
        "predict": {"op": "cp_predict", "in": {"samples": "samples", "calibration": "plain.calibration"}},
        "other": {
            "op": "cp_predict",
            "in": {"samples": "samples", "calibration": "near.calibration"},
            "models": {"encoder": "encoder"},
        },
        "report": {"op": "lofreecp_report", "in": {"sets": "near.sets", "calibration": "near.calibration"}},
    }
    result = run_conformal(registry, steps, ENCODER)
    assert result.state == "succeeded", result.error
    assert "| mean loss |" in ask(registry, 'select text from "demo/report"')[0][0]
    assert ask(registry, 'select encoder from "demo/plain.calibration"')[0][0].startswith("all-minilm-l6-v2")
    shown = {text for (text,) in ask(registry, 'select distinct unnest(prediction) from "demo/merged.sets"')}
    assert not {"the United States", "United States of America"} <= shown
    [(risk,)] = ask(
        registry, "select value from metrics where name = 'demo/near.calibration' and metric = 'risk' and slice = 'alpha=0.4'"
    )
    assert risk <= 0.45
    assert ask(registry, 'select count(loss) = count(*) from "demo/near.sets"') == [(True,)]
    same = """select count(*) from "demo/plain.sets" a join "demo/predict" b using (question, alpha) where a.prediction != b.prediction"""
    assert ask(registry, same) == [(0,)]


# -- paraphrases -----------------------------------------------------------------------------------------------------------


def test_rewrites_of_the_same_seed_stay_on_the_same_side(registry: Registry, chat_server: ChatServer) -> None:
    def answer(prompt: str, seen: int) -> str:
        number = re.search(r"(\d+) \+ 1", prompt)
        if number is None:
            return f"word {len(chat_server.requests)}"  # what is asked to see what the server can do
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
