"""sample_answers on a real server: samples, options, adaptive stopping, and servers that do not sample."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import ask
from tests.operators.alignment.conflicts import write
from tests.operators.conformal.sampled_answers import FRANCE, asked, run_conformal, sample, script

pytestmark = pytest.mark.usefixtures("in_process", "workdir")


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
    reasons = " ".join(reason for (reason,) in ask(registry, "select reason from rejects"))
    assert "27 options; expected 2 to 26" in reasons
    assert "its options do not include the accepted answer 'mine'" in reasons
    assert len(asked(chat_server)) == 2, "rejected before anything is paid for"
