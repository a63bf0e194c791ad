"""PersonaMath's operators: reflection repairs without showing the gold answer; personas change the setting, not the problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from tests.chat_server import ChatServer, error
from tests.engine.run_pipelines import ask, run_text

pytestmark = pytest.mark.usefixtures("in_process")

GOLD = "987654"


def solution(question: str = "What is 9 + 4?", answer: str = "13", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "solution": "It is \\boxed{5}", "verdict": "wrong", **more}


def write(name: str, *rows: dict[str, Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_step(registry: Registry, server: ChatServer, step: dict[str, Any], more: dict[str, Any] | None = None) -> Any:
    """Run an operator on solutions.jsonl and personas.jsonl; it must succeed."""
    result = run_pipeline(registry, server, step, more)
    assert result.state == "succeeded", result.error
    return result


def run_pipeline(registry: Registry, server: ChatServer, step: dict[str, Any], more: dict[str, Any] | None = None) -> Any:
    """The same, but it may fail."""
    document = {
        "name": "demo",
        "models": {"teacher": json.loads(server.model(retries=0, **(more or {})))},
        "datasets": {
            "given": {"type": "MathSolution", "path": "solutions.jsonl"},
            "personas": {"type": "Persona", "path": "personas.jsonl"},
        },
        "steps": {"step": {"max_reject_ratio": 1, **step}},
    }
    if not Path("personas.jsonl").exists():
        write("personas.jsonl", {"persona": "a beekeeper", "occupation": "skilled agricultural workers"})
    return run_text(json.dumps(document), registry)


# -- reflect ----------------------------------------------------------------------------------------------------------


def test_reflection_repairs_in_rounds_each_starting_from_the_last_solution(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution(), solution("What is 1 + 1?", "2"))
    replies = {"\\boxed{5}": "Better: \\boxed{6}", "\\boxed{6}": "Now: \\boxed{13}", "\\boxed{13}": "\\boxed{7}"}
    chat_server.answer = lambda prompt, seen: next(
        new for old, new in replies.items() if old in prompt.partition("Solution:")[2]
    )
    run_step(registry, chat_server, {"op": "reflect", "in": "given", "with": {"rounds": 2}})
    assert ask(registry, 'select question, solution, predicted, verdict, stage from "demo/step.solved"') == [
        ("What is 9 + 4?", "Now: \\boxed{13}", "13", "correct", 2)
    ]
    assert ask(registry, 'select solution, verdict, stage from "demo/step.unsolved"') == [("Now: \\boxed{13}", "wrong", 2)]
    metrics = dict(ask(registry, "select metric || ' ' || slice, value from metrics"))
    assert metrics == {"reflection repaired": 1, "reflection still wrong": 1, "repair_rate ": 0.5}
    # Both answers made the repaired row.
    assert len(ask(registry, "select distinct call_id from llm_calls where name = 'demo/step.solved' and row = 0")) == 2


def test_reflection_never_shows_the_gold_answer(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution(answer=GOLD), solution("Another one?", f"It is so.\n#### {GOLD}"))
    chat_server.answer = lambda prompt, seen: "\\boxed{1}"
    run_step(registry, chat_server, {"op": "reflect", "in": "given", "with": {"rounds": 3}})
    assert len(chat_server.requests) == 6
    assert GOLD not in json.dumps(chat_server.requests)


def test_a_round_that_repeats_a_solution_gets_another_answer(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", {**solution(), "solution": "\\boxed{5}"})
    chat_server.answer = lambda prompt, seen: ["\\boxed{5}", "\\boxed{13}"][seen]
    run_step(registry, chat_server, {"op": "reflect", "in": "given", "with": {"rounds": 2}})
    assert ask(registry, 'select verdict from "demo/step.solved"') == [("correct",)]


def test_cut_off_reflections_leave_the_solution_unchanged(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution())
    chat_server.finish_reason = "length"
    run_step(registry, chat_server, {"op": "reflect", "in": "given"})
    assert ask(registry, 'select solution, stage from "demo/step.unsolved"') == [("It is \\boxed{5}", 1)]


# -- persona_augment --------------------------------------------------------------------------------------------------

PERSONAS = [
    {"persona": "a beekeeper", "occupation": "skilled agricultural workers"},
    {"persona": "a sergeant", "occupation": "armed forces"},
    {"persona": "a pupil", "occupation": "other"},
]


def teacher(rewrites: dict[str, str], solve: str = "\\boxed{13}") -> Callable[[str, int], str]:
    """Rewrite for the persona in the prompt; solve every other prompt."""

    def answer(prompt: str, seen: int) -> str:
        return next((text for persona, text in rewrites.items() if f"Persona: {persona}\n" in prompt), solve)

    return answer


def augment(registry: Registry, server: ChatServer, **settings: Any) -> Any:
    write("personas.jsonl", *PERSONAS)
    step = {"op": "persona_augment", "in": {"solution": "given", "personas": "personas"}, "with": settings}
    return run_step(registry, server, step)


def test_rewrites_are_solved_or_rejected_with_a_reason(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution(id="i", source="s", stage=1), solution(id="j", source="s", stage=2))
    chat_server.answer = teacher(
        {
            "a beekeeper": "Nine hives and 4 hives, how many?",
            "a sergeant": "9 tents and 4 tents are 13. How many?",
            "a pupil": "WHAT is 9 + 4",
        }
    )
    result = augment(registry, chat_server, personas_per_problem=3)
    columns = "question, answer, predicted, verdict, stage, source, id, persona, occupation"
    assert ask(registry, f'select {columns} from "demo/step.solved" order by row') == [
        (
            "Nine hives and 4 hives, how many?",
            "13",
            "13",
            "correct",
            stage,
            "s",
            name,
            "a beekeeper",
            "skilled agricultural workers",
        )
        for stage, name in ((1, "i"), (2, "j"))
    ]
    assert sorted(ask(registry, "select parent_row, reason from rejects where name = 'demo/step.solved'")) == [
        (row, f"the rewrite {reason}") for row in (0, 1) for reason in ("equals the original", "reveals the answer")
    ]
    [step] = result.steps
    assert (step.record.rejected, step.partial) == (0, 4)
    # Calls: three rewrites per problem (the two problems have the same text), and one solution.
    assert len(chat_server.requests) == 4
    # A rewrite comes from the seed and from the persona, and from two calls.
    assert ask(registry, "select parent, parent_row from row_lineage where child_row = 0 order by 1") == [
        ("demo/given", 0),
        ("demo/personas", 0),
    ]
    assert len(ask(registry, "select call_id from llm_calls where row = 0")) == 2


def test_a_rewrite_with_another_answer_goes_to_rejected(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution())
    chat_server.answer = teacher(
        {"a beekeeper": "9 and 4 hives?", "a sergeant": "9 and 4 tents?", "a pupil": "9 and 4?"}, "\\boxed{36}"
    )
    augment(registry, chat_server, personas_per_problem=3)
    assert ask(registry, 'select count(*) from "demo/step.solved"') == [(0,)]
    assert ask(registry, 'select distinct predicted, verdict from "demo/step.rejected"') == [("36", "wrong")]


def test_rewrites_of_stage_two_are_solved_with_reflection(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution(stage=2))
    solve = teacher(
        {"a beekeeper": "9 and 4 hives?", "a sergeant": "9 and 4 tents?", "a pupil": "9 and 4 books?"}, "\\boxed{36}"
    )
    chat_server.answer = lambda prompt, seen: "\\boxed{13}" if "Solution:" in prompt else solve(prompt, seen)
    augment(registry, chat_server, personas_per_problem=3, solve_with="reflect")
    assert ask(registry, 'select count(*), min(stage) from "demo/step.solved"') == [(3, 2)]
    assert ask(registry, "select count(*) from llm_calls where row = 0 and name = 'demo/step.solved'") == [(3,)]


def test_a_failed_request_loses_one_rewrite_and_is_retried_later(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution())
    good = teacher({"a beekeeper": "9 and 4 hives?", "a sergeant": "9 and 4 tents?", "a pupil": "9 and 4 books?"})
    chat_server.answer = lambda prompt, seen: error(400, "not today") if "a sergeant" in prompt else good(prompt, seen)
    augment(registry, chat_server, personas_per_problem=3)
    assert ask(registry, 'select count(*) from "demo/step.solved"') == [(2,)]
    [(reason,)] = ask(registry, "select reason from rejects")
    assert "not today" in reason

    chat_server.answer = good
    asked = len(chat_server.requests)
    result = run_text(Path("p.yaml").read_text(), registry, retry_rejects=True)
    assert result.state == "succeeded"
    assert ask(registry, 'select count(*) from "demo/step.solved"') == [(3,)]
    assert len(chat_server.requests) == asked + 2


def test_an_outage_fails_the_step(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution())
    write("personas.jsonl", *PERSONAS)
    chat_server.answer = lambda prompt, seen: error(500, "down")
    step = {"op": "persona_augment", "in": {"solution": "given", "personas": "personas"}, "max_reject_ratio": 0.1}
    result = run_pipeline(registry, chat_server, step)
    assert result.state == "failed"
    assert "1 of 1 row was rejected" in result.error
    chat_server.answer = teacher({"a beekeeper": "9 and 4 hives?", "a sergeant": "9 and 4 tents?", "a pupil": "9 and 4 books?"})
    assert run_pipeline(registry, chat_server, step).state == "succeeded"
    assert ask(registry, 'select count(*) from "demo/step.solved"') == [(3,)]


def test_no_prompt_contains_the_gold_answer(registry: Registry, chat_server: ChatServer) -> None:
    write("solutions.jsonl", solution(answer=GOLD))
    chat_server.answer = teacher(
        {"a beekeeper": "9 and 4 hives?", "a sergeant": "9 and 4 tents?", "a pupil": "9 and 4?"}, "\\boxed{1}"
    )
    augment(registry, chat_server, personas_per_problem=3, solve_with="reflect", rounds=2)
    assert GOLD not in json.dumps(chat_server.requests)


# -- classify_personas ------------------------------------------------------------------------------------------------


def classify(registry: Registry, server: ChatServer, **settings: Any) -> list[Any]:
    write("solutions.jsonl", solution())
    write(
        "personas.jsonl",
        {"persona": "She welds ships."},
        {"persona": "A pensioner who spends the day at home with grandchildren.", "occupation": "managers"},
    )
    step: dict[str, Any] = {"op": "classify_personas", "in": "personas", "with": settings}
    document = {
        "name": "demo",
        "models": {
            "teacher": json.loads(server.model(retries=0)),
            "encoder": {"provider": "sentence-transformers", "model": "all-minilm-l6-v2"},
        },
        "datasets": {"personas": {"type": "Persona", "path": "personas.jsonl"}},
        "steps": {"step": {"max_reject_ratio": 0.5, **step}},
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    return ask(registry, 'select persona, occupation from "demo/step" order by row')


def test_the_teacher_chooses_the_class_and_known_classes_are_kept(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: '{"occupation": "craft and trades workers"}'
    assert classify(registry, chat_server) == [
        ("She welds ships.", "craft and trades workers"),
        ("A pensioner who spends the day at home with grandchildren.", "managers"),
    ]
    assert len(chat_server.requests) == 1
    assert "craft and trades workers: builds" in chat_server.prompts[0]


def test_an_unknown_class_is_rejected(registry: Registry, chat_server: ChatServer) -> None:
    chat_server.answer = lambda prompt, seen: '{"occupation": "welder"}'
    assert len(classify(registry, chat_server)) == 1
    assert "is not a valid Choice" in ask(registry, "select reason from rejects")[0][0]


def test_an_encoder_chooses_the_class_without_a_teacher(registry: Registry, chat_server: ChatServer) -> None:
    assert classify(registry, chat_server, method="embedding", overwrite=True) == [
        ("She welds ships.", "craft and trades workers"),
        ("A pensioner who spends the day at home with grandchildren.", "other"),
    ]
    assert not chat_server.requests


# -- evaluate_math ----------------------------------------------------------------------------------------------------


def test_accuracy_is_reported_with_its_interval_by_source(registry: Registry, chat_server: ChatServer) -> None:
    problems = [{"question": f"q{n}", "answer": str(n), "source": "ab"[n % 2]} for n in range(10)]
    write("problems.jsonl", *problems)

    def answer(prompt: str, seen: int) -> Any:
        return {"q1": "I do not know", "q3": "", "q5": "\\boxed{0}"}.get(prompt, f"\\boxed{{{prompt[1:]}}}")

    chat_server.answer = answer
    document = {
        "name": "demo",
        "models": {"student": json.loads(chat_server.model(temperature=0.9, retries=0))},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {"test": {"op": "evaluate_math", "in": "problems"}},
    }
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    assert {request["temperature"] for request in chat_server.requests} == {0}
    metrics = {(metric, part): value for metric, part, value in ask(registry, "select metric, slice, value from metrics")}
    assert (metrics["accuracy", ""], metrics["accuracy", "a"], metrics["accuracy", "b"]) == (0.7, 1, 0.4)
    # The Wilson interval of 7 in 10, as tables have it.
    assert metrics["accuracy_ci_low", ""] == pytest.approx(0.3968, abs=1e-4)
    assert metrics["accuracy_ci_high", ""] == pytest.approx(0.8922, abs=1e-4)
    assert (metrics["verdicts", "unparsed"], metrics["verdicts", "wrong"]) == (2, 1)
    assert ask(registry, 'select count(*) from "demo/test"') == [(10,)]


def test_a_cut_off_answer_counts_if_it_was_stated_before(registry: Registry, chat_server: ChatServer) -> None:
    write("problems.jsonl", {"question": "stated", "answer": "7"}, {"question": "by chance", "answer": "7"})
    chat_server.finish_reason = "length"
    chat_server.answer = lambda prompt, seen: "so \\boxed{7} and" if "\nstated" in prompt else "3 + 4 = 7"
    document = {
        "name": "demo",
        "models": {"student": json.loads(chat_server.model())},
        "datasets": {"problems": {"type": "MathProblem", "path": "problems.jsonl"}},
        "steps": {"test": {"op": "evaluate_math", "in": "problems", "with": {"format": "alpaca"}}},
    }
    run_text(json.dumps(document), registry)
    assert ask(registry, 'select verdict from "demo/test" order by row') == [("correct",), ("unparsed",)]
    assert "### Instruction:\nstated" in chat_server.prompts[0]
