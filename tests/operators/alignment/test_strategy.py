"""AI feedback chooses the strategy: the judge's verdicts in either order, the choice, and notes on weak choices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine.errors import PipelineError
from engine.packages.catalogue import catalogue
from engine.pipeline.check import check
from operators.alignment.ai_feedback_strategy import choose
from operators.alignment.paths import PATHS, base_prompt
from operators.records import StrategyChoice
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.engine.run_pipelines import ask, outcomes
from tests.operators.alignment.conflicts import asked, case, correct, incorrect, land_of, play, run_steps, write

CASES = {"cases": "ConflictCase"}
WARNINGS = re.compile(r"wrong|false|poison|mislead|careful|trust|verify|conflict|contradict|incorrect|doubt", re.IGNORECASE)


def strategy(registry: Registry, server: ChatServer, *cases: dict[str, Any], ratio: float = 1, **settings: Any) -> Any:
    """ai_feedback_strategy over the cases."""
    if cases:
        write("cases.jsonl", *cases)
    how = {name: settings.pop(name) for name in ("force", "roles") if name in settings}
    step = {"op": "ai_feedback_strategy", "in": "cases", "with": settings, "max_reject_ratio": ratio}
    return run_steps(registry, server, CASES, {"step": step}, **how)


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contexts", [[], ["Bburg is the capital.", "Aville is."]])
def test_the_base_prompt_never_warns(contexts: list[str]) -> None:
    [turn] = base_prompt("What is the capital?", contexts)
    assert not WARNINGS.search(turn.content)
    assert ("Contexts:\n[1] Bburg is the capital.\n[2] Aville is.\n" in turn.content) is bool(contexts)
    assert WARNINGS.search(PATHS["tips"][0])


def test_prompts_without_contexts_do_not_mention_contexts() -> None:
    assert "context" not in base_prompt("What is the capital?", [])[0].content


# -- the choice -------------------------------------------------------------------------------------------------------


def choices(cells: dict[str, dict[str, tuple[int, int]]], factual: int = 0, **settings: Any) -> dict[str, StrategyChoice]:
    """The chosen path by cell, from {cell: {path: (correct, judged)}}."""
    counts: dict[tuple[str, str], float] = {}
    for cell, paths in cells.items():
        counts["cases", cell] = max(n for _, n in paths.values())
        counts["factual_contexts", cell] = factual * counts["cases", cell]
        for path, (right, n) in paths.items():
            counts["judged", f"{cell} {path}"], counts["correct", f"{cell} {path}"] = n, right
    params = catalogue().operators["ai_feedback_strategy"].params.model_validate(settings)
    rows = [item[1] for item in choose(counts, params) if isinstance(item, tuple)]
    assert len(rows) == 5 * len(cells)
    return {f"pcn={row.pcn} fc={'yes' if row.fc else 'no'}": row for row in rows if row.chosen}


ALIKE = dict.fromkeys(PATHS, (10, 20))


def test_a_tie_goes_to_the_simplest_path_and_is_noted() -> None:
    cells = {
        "pcn=0 fc=no": {**ALIKE, "tips": (5, 10)},
        "pcn=1 fc=no": {**ALIKE, "base_cot": (15, 20), "cot_pk": (15, 20)},
    }
    found = choices(cells)
    assert (found["pcn=0 fc=no"].path, found["pcn=0 fc=no"].note) == ("base", "tie with tips, base_cot, cot_nopk, cot_pk")
    assert found["pcn=1 fc=no"].path == "base_cot"
    assert str(found["pcn=1 fc=no"].note).startswith("tie with cot_pk; not clearly better than base")


def test_choices_with_weak_support_are_noted() -> None:
    few = {"base": (0, 4), "tips": (4, 4), "base_cot": (1, 4), "cot_nopk": (1, 4), "cot_pk": (3, 3)}
    [found] = choices({"pcn=5 fc=yes": few}).values()
    # Wilson's interval of 0 in 4 ends at 0.49, that of 4 in 4 begins at 0.51: they do not overlap.
    assert (found.path, found.note) == ("tips", "tie with cot_pk; too few items: 4, fewer than min_items=10")
    [found] = choices({"pcn=5 fc=yes": {**few, "tips": (3, 4), "cot_pk": (0, 4)}}, min_items=4).values()
    assert found.note == "not clearly better than base (its interval reaches 0.49)"
    [found] = choices({"pcn=5 fc=yes": {**ALIKE, "cot_pk": (19, 19)}}).values()
    assert found.note == "1 of 20 cases have no verdict"


def test_the_papers_rule_uses_prior_knowledge_where_poison_outnumbers_facts() -> None:
    cell = {**ALIKE, "tips": (12, 20), "cot_pk": (18, 20)}
    names = ("pcn=0 fc=yes", "pcn=1 fc=yes", "pcn=2 fc=yes")
    cells = dict.fromkeys(names, cell)
    assert [row.path for row in choices(cells, factual=1).values()] == ["cot_pk"] * 3
    ruled = choices(cells, factual=1, rule="paper")
    assert [row.path for row in ruled.values()] == ["tips", "tips", "cot_pk"]
    assert "cot_pk measured better (0.90)" in str(ruled["pcn=1 fc=yes"].note)
    assert [row.path for row in choices(cells, factual=2, rule="paper").values()] == ["tips"] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use": ["base", "magic"]}, "unknown path 'magic'; known: base, tips, base_cot, cot_nopk, cot_pk, mine"),
        ({"use": ["base", "base"]}, "a path is repeated"),
        ({"use": ["base", "tips"], "rule": "paper"}, "rule: paper needs cot_pk and at least one other path"),
        ({"paths": {"mine": ["{{ question }}", "{{ answer }}"]}}, "the prompt uses answer; it may use question, contexts"),
    ],
)
def test_wrong_paths_are_reported_before_anything_runs(
    registry: Registry, chat_server: ChatServer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=re.escape(message)):
        strategy(registry, chat_server, case(1), **{"paths": {"mine": "{{ question }}"}, **settings})
    assert not chat_server.requests


# -- whole runs -------------------------------------------------------------------------------------------------------


def path_of(conversation: list[dict[str, str]]) -> str:
    """The path that a conversation follows."""
    first = conversation[0]["content"]
    marks = {"may be wrong": "tips", "step by step": "base_cot", "1. Write down": "cot_nopk", "key concepts": "cot_pk"}
    return next((path for mark, path in marks.items() if mark in first), "base")


def policy(conversation: list[dict[str, str]]) -> str:
    """Base is right if there is a factual context; steps help for even lands; prior knowledge always helps, but mumbles once."""
    land, path, last = land_of(conversation), path_of(conversation), conversation[-1]["content"]
    if path == "cot_pk" and "answer the question: " not in last:
        return f"I know something of land {land}."
    known = path == "cot_pk" or "The capital of land" in last or (path == "cot_nopk" and land % 2 == 0)
    text = f"Thinking of {incorrect(land)} first.\nAnswer: {correct(land) if known else incorrect(land)}"
    return "mumble" if (path, land) == ("cot_pk", 3) else text


@pytest.mark.usefixtures("in_process")
def test_the_strategy_follows_from_the_judges_verdicts(registry: Registry, chat_server: ChatServer) -> None:
    play(chat_server, policy=policy)
    cases = [case(land, 2, temperature=0.3) for land in range(12)] + [case(land, 1, fc=True) for land in range(4)]
    result = strategy(registry, chat_server, *cases, check_order=0.5)
    assert result.state == "succeeded", result.error

    columns = "path, n, round(accuracy, 2), chosen, note"
    rows = ask(registry, f'select {columns} from "demo/step.strategies" where pcn = 2 order by row')
    assert rows == [
        ("base", 12, 0, False, None),
        ("tips", 12, 0, False, None),
        ("base_cot", 12, 0, False, None),
        ("cot_nopk", 12, 0.5, False, None),
        ("cot_pk", 11, 1, True, "1 of 12 cases have no verdict"),
    ]
    rows = ask(registry, f'select {columns} from "demo/step.strategies" where pcn = 1 and chosen')
    assert rows == [
        ("base", 4, 1, True, "tie with tips, base_cot, cot_nopk, cot_pk; too few items: 4, fewer than min_items=10")
    ]
    # The Wilson interval of 6 in 12, as tables have it.
    [interval] = ask(registry, "select ci_low, ci_high from \"demo/step.strategies\" where path = 'cot_nopk' and pcn = 2")
    assert interval == pytest.approx((0.2538, 0.7462), abs=1e-4)

    # A verdict that cannot be read is a reject, and never "incorrect".
    rejects = ask(registry, "select parent_row, reason from rejects order by 1")
    assert [row for row, _ in rejects] == [3, 15]
    assert all(reason.startswith("cot_pk: the answer is not a valid Judgement") for _, reason in rejects)
    assert ask(registry, "select count(*) from \"demo/step.responses\" where response = 'mumble'") == [(0,)]

    # Both orders were shown, to a judge that goes by the content.
    shown = ["First answer: Aville" in conversation[0]["content"] for conversation in asked(chat_server, "judge")]
    assert 0.2 < sum(shown) / len(shown) < 0.8
    metrics = {(metric, part): value for metric, part, value in ask(registry, "select metric, slice, value from metrics")}
    assert ("order_checks", "differ") not in metrics
    assert metrics["order_checks", "agree"] > 20
    assert metrics["order_agreement", ""] == 1 > metrics["order_agreement_ci_low", ""] > 0.8
    assert metrics["accuracy", "cot_nopk"] == pytest.approx(10 / 16)
    assert metrics["accuracy_ci_low", "cot_nopk"] < 10 / 16 < metrics["accuracy_ci_high", "cot_nopk"]

    # All turns are kept, each call with the conversation so far, at the case's temperature.
    row = "(select row from \"demo/step.responses\" where path = 'cot_pk' and pcn = 2 and id = 'land-1')"
    calls = ask(registry, f"select role, prompt from llm_calls where name = 'demo/step.responses' and row = {row}")
    turns = sorted((json.loads(prompt) for role, prompt in calls if role == "policy"), key=len)
    assert [len(turn) for turn in turns] == [1, 3, 5]
    assert turns[2][:4] == [*turns[1], {"role": "assistant", "content": "I know something of land 1."}]
    assert ["Guide 0" in turn[-1]["content"] for turn in turns] == [False, False, True]
    assert [role for role, _ in calls].count("judge") == 1
    temperatures = {request["temperature"] for request in chat_server.requests if request["model"] == "policy"}
    assert temperatures == {0, 0.3}

    # In a second run, the judge is asked again only for unreadable verdicts, and the result is the same.
    before = len(chat_server.requests)
    assert outcomes(strategy(registry, chat_server, check_order=0.5, force="step")) == {"step": "ran"}
    assert len(ask(registry, "select distinct content_id from versions where step = 'step'")) == 2
    again = chat_server.requests[before:]
    assert all("mumble" in json.dumps(request["messages"]) for request in again)


@pytest.mark.usefixtures("in_process")
def test_a_judge_that_prefers_a_position_is_detected(registry: Registry, chat_server: ChatServer) -> None:
    play(chat_server, policy=policy, judge=lambda conversation: '{"reason": "", "gives": "first"}')
    strategy(registry, chat_server, *(case(land) for land in range(8)), use=["base"], check_order=1)
    metrics = dict(ask(registry, "select metric, value from metrics where metric like 'order%'"))
    assert (metrics["order_checks"], metrics["order_agreement"]) == (8, 0)
    # Its preference affects both answers alike.
    assert 0 < ask(registry, 'select sum(correct::int) from "demo/step.responses"')[0][0] < 8


@pytest.mark.usefixtures("in_process")
def test_paths_from_yaml_are_used_without_a_judge(registry: Registry, chat_server: ChatServer) -> None:
    def answer(conversation: list[dict[str, str]]) -> Any:
        last = conversation[-1]["content"]
        if last == "Q: What is the capital of land 2?":
            return completion(f"It is {correct(2)}, as", finish_reason="length")
        return "It is Aville1." if last == "Say it again: [1] Guide 0: Bburg1 is the capital of land 1." else "It is Bburg1."

    play(chat_server, policy=answer)
    result = strategy(
        registry,
        chat_server,
        case(1),
        case(2),
        judging="strict",
        paths={"base": "Q: {{ question }}", "twice": ["Tell: {{ question }}", "Say it again: {{ contexts }}"]},
        use=["base", "twice"],
        roles=("policy",),
    )
    assert result.state == "succeeded", result.error
    responses = ask(registry, 'select id, path, response, correct from "demo/step.responses" order by row')
    assert responses == [
        ("land-1", "base", "It is Bburg1.", False),
        ("land-1", "twice", "It is Aville1.", True),
        ("land-2", "twice", "It is Bburg1.", False),
    ]
    assert ask(registry, "select reason from rejects") == [("base: the response was cut off at max_tokens=512",)]
    assert ask(registry, 'select path, n, chosen from "demo/step.strategies"') == [("base", 1, False), ("twice", 2, True)]


@pytest.mark.usefixtures("in_process")
def test_an_outage_of_the_judge_fails_the_step(registry: Registry, chat_server: ChatServer) -> None:
    play(chat_server, policy=policy, judge=lambda conversation: error(500, "down"))
    result = strategy(registry, chat_server, case(1), case(2), use=["base", "tips"], ratio=0.1)
    assert result.state == "failed"
    assert "2 of 2 rows were rejected" in str(result.error)


def test_the_same_model_in_both_roles_gives_a_warning(registry: Registry, chat_server: ChatServer) -> None:
    write("cases.jsonl", case(1))
    document = {
        "name": "demo",
        "models": {"policy": json.loads(chat_server.model())},
        "datasets": {"cases": {"type": "ConflictCase", "path": "cases.jsonl"}},
        "steps": {"step": {"op": "ai_feedback_strategy", "in": "cases", "models": {"judge": "policy"}}},
    }
    Path("p.yaml").write_text(json.dumps(document))
    step = check(Path("p.yaml")).steps["step"]
    assert step.notes == ("policy and judge are the same model",)
    assert step.operator.calls_per_row(step.params) == {"policy": 7, "judge": 20}
