"""Training data: revised responses that stay correct, and pairs of them with the policy's poisoned answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from engine.errors import PipelineError
from operators.alignment.build_dpo_pairs import amounts
from operators.alignment.conclusions import conclusion, normalise
from operators.alignment.paths import base_prompt
from registry import Registry
from tests.chat_server import ChatServer, completion, error
from tests.engine.run_pipelines import ask
from tests.operators.alignment.conflicts import asked, correct, incorrect, land_of, play, response, run_steps, strategy, write

pytestmark = pytest.mark.usefixtures("in_process")

DATASETS = {"responses": "PathResponse", "strategies": "StrategyChoice"}
NO_SHARES = {"ike_share": 0, "closed_book_share": 0}


# -- revise_responses -------------------------------------------------------------------------------------------------


def revise(registry: Registry, server: ChatServer, *, strategies: bool = True, **settings: Any) -> Any:
    """Run revise_responses on responses.jsonl; it must succeed."""
    datasets = DATASETS if strategies else {"responses": "PathResponse"}
    given = {name.replace("responses", "response"): name for name in datasets}
    step = {"op": "revise_responses", "in": given, "with": settings, "max_reject_ratio": 0.5}
    result = run_steps(registry, server, datasets, {"step": step})
    assert result.state == "succeeded", result.error
    return result


def reviser(conversation: list[dict[str, str]]) -> Any:
    """A reviser that names the wrong city for land 2, is cut off for land 3, and refuses land 4."""
    land = land_of(conversation)
    revisions = {
        2: f"The capital is {incorrect(2)}.",
        3: completion("The capital is", finish_reason="length"),
        4: error(400, "no"),
    }
    return revisions.get(land, f"The capital is {correct(land)}.")


def test_a_revision_is_kept_only_if_it_is_correct(registry: Registry, chat_server: ChatServer) -> None:
    right = [response(land, path="cot_pk", source="s") for land in range(1, 5)]
    write("responses.jsonl", *right, response(5, path="cot_pk", right=False), response(6), response(7, 2, path="cot_pk"))
    write("strategies.jsonl", strategy("cot_pk"), {**strategy("base"), "chosen": False})
    play(chat_server, reviser=reviser)
    [step] = revise(registry, chat_server).steps
    columns = "id, source, path, response, correct, revised_from"
    assert ask(registry, f'select {columns} from "demo/step"') == [
        ("land-1", "s", "cot_pk", "The capital is Aville1.", True, "It is Aville1, says cot_pk.")
    ]
    reasons = dict(ask(registry, "select parent_row, reason from rejects"))
    assert reasons[1] == "the revision does not give the correct answer (it gives: incorrect)"
    assert reasons[2] == "the revision was cut off at max_tokens=512"
    assert (set(reasons), "no" in reasons[3]) == ({1, 2, 3}, True)
    assert (step.record.rejected, step.record.filtered) == (1, 5)
    # Nothing is asked for responses that are wrong, of another path, or of a cell without a choice.
    assert sorted(map(land_of, asked(chat_server, "reviser"))) == [1, 2, 3, 4]
    assert not [texts for texts in asked(chat_server, "reviser") if "cot_pk" not in texts[0]["content"]]
    parents = ask(registry, "select parent, parent_row from row_lineage where child = 'demo/step' order by 1")
    assert parents == [("demo/responses", 0), ("demo/strategies", 0)]
    assert ask(registry, "select role from llm_calls where row = 0 order by 1") == [("judge",), ("reviser",)]


def test_without_strategies_every_correct_response_is_revised(registry: Registry, chat_server: ChatServer) -> None:
    write("responses.jsonl", response(1), response(1, path="tips"), response(2), response(5, right=False))
    play(chat_server, reviser=reviser)
    revise(registry, chat_server, strategies=False, judging="strict", prompt="{{ question }} {{ response }}")
    assert ask(registry, 'select path from "demo/step" order by row') == [("base",), ("tips",)]
    assert asked(chat_server, "reviser")[0][0]["content"].endswith("capital of land 1? It is Aville1, says base.")
    assert not asked(chat_server, "judge")


# -- build_dpo_pairs --------------------------------------------------------------------------------------------------


def build(registry: Registry, server: ChatServer, *, revised: bool = False, **steps: dict[str, Any]) -> None:
    """Run build_dpo_pairs on responses.jsonl, strategies.jsonl (and revised.jsonl), one step for each settings; it must succeed."""
    datasets = DATASETS | ({"revised": "PathResponse"} if revised else {})
    given = {"op": "build_dpo_pairs", "in": {name: name for name in datasets}}
    result = run_steps(registry, server, datasets, {name: {**given, "with": each} for name, each in steps.items()}, roles=())
    assert result.state == "succeeded", result.error


def rows(registry: Registry, output: str, *columns: str) -> list[list[list[dict[str, str]]]]:
    """The conversations of an output, a list for each row."""
    found = ask(registry, f'select {", ".join(columns)} from "demo/step.{output}" order by row')
    return [[json.loads(each) if isinstance(each, str) else each for each in row] for row in found]


def measured(registry: Registry, metric: str, step: str = "step") -> dict[str, float]:
    return dict(ask(registry, f"select slice, value from metrics where metric = '{metric}' and name = 'demo/{step}.sft'"))


def grid() -> list[dict[str, Any]]:
    """Two conflict cells of 20 and 12 lands, 30 of IKE, 2 of closed book; the base path is poisoned wherever it can be."""
    made = []
    for land in range(30):
        for pcn, fc, lands in ((1, False, 20), (3, True, 12)):
            if land < lands:
                made += [response(land, pcn, fc, right=False), response(land, pcn, fc, path="tips")]
        made.append(response(land, 0, True))
        if land < 2:
            made.append(response(land, 0, False))
    return made


STRATEGIES = [strategy("tips", 1, False), strategy("tips", 3, True), strategy("base", 0, True), strategy("base", 0, False)]


def test_rows_have_the_requested_shares_balance_and_prompts(registry: Registry, chat_server: ChatServer) -> None:
    given = grid()
    write("responses.jsonl", *given)
    write("strategies.jsonl", *STRATEGIES)
    shares = {"ike_share": 0.2, "closed_book_share": 0.1}
    build(registry, chat_server, step=shares, all={**shares, "balance": "none"})

    # 12 rows from either conflict cell. Closed book has 2 where its tenth would be 3, so IKE's fifth is of 32 or 33 rows.
    wanted = {"conflict": 24.0, "ike": 6.0, "closed_book": 2.0}
    assert measured(registry, "rows") == {f"{output}: {kind}": n for output in ("sft", "pairs") for kind, n in wanted.items()}
    assert measured(registry, "missing") == {"sft: closed_book": 1, "pairs: closed_book": 1}
    dropped = measured(registry, "dropped")
    assert (dropped["sft: beyond the smallest cell"], dropped["sft: beyond the share of ike"]) == (8, 24)
    # IKE has 30 good rows, of which 20 lands were poisoned somewhere.
    assert (dropped["pairs: the policy has no poisoned answer"], dropped["pairs: beyond the share of ike"]) == (10, 14)
    sft, pairs = rows(registry, "sft", "prompt", "completion"), rows(registry, "pairs", "prompt", "chosen", "rejected")
    assert (len(sft), len(pairs)) == (32, 32)

    # The prompt is that of the base path, word for word, and contains no warning.
    prompts = {json.dumps([turn.model_dump() for turn in base_prompt(one["question"], one["contexts"])]) for one in given}
    warnings = re.compile(r"wrong|false|poison|mislead|careful|trust|verify|conflict", re.IGNORECASE)
    for prompt, *_ in (*sft, *pairs):
        assert json.dumps(prompt) in prompts
        assert not warnings.search(prompt[0]["content"])
    for prompt, [chosen], [rejected] in pairs:
        land = land_of(prompt)
        assert conclusion(chosen["content"], correct(land), incorrect(land)) == "correct"
        assert rejected["content"] == f"It is {incorrect(land)}, says base."
        assert chosen["role"] == rejected["role"] == "assistant"

    # A pair comes from the chosen row and from the rejected one, and from the choice of its path.
    edges = ask(registry, "select child_row, parent, parent_row from row_lineage where child = 'demo/step.pairs'")
    assert Counter(parent for _, parent, _ in edges) == {"demo/responses": 64, "demo/strategies": 32}
    sources = {
        number: [given[row] for child, parent, row in edges if child == number and parent == "demo/responses"]
        for number in range(32)
    }
    for number, (_, [chosen], [rejected]) in enumerate(pairs):
        assert {one["response"] for one in sources[number]} == {chosen["content"], rejected["content"]}
        assert len({(one["pcn"], one["fc"]) for one in sources[number]}) == (1 if sources[number][0]["pcn"] else 2)

    assert measured(registry, "rows", "all")["sft: conflict"] == 32


def test_no_pair_contradicts_itself(registry: Registry, chat_server: ChatServer) -> None:
    write(
        "responses.jsonl",
        response(1, right=False),
        response(1, path="tips"),
        # The judge took this for correct, but it names the incorrect answer.
        response(2, right=False),
        response(2, path="tips", response=f"It is {incorrect(2)}."),
        # Wrong, but not because of the poison.
        response(3, right=False, response="I do not know."),
        response(3, path="tips"),
        # In another cell only.
        response(4, 2, right=False),
        response(4, path="tips"),
        # A response of the base path is preferred, most of all one with the same contexts.
        response(5, right=False, path="tips", response=f"Tips: {incorrect(5)}."),
        response(5, right=False, factual_first=True, contexts=["other"], response=f"Other: {incorrect(5)}."),
        response(5, right=False, response=f"Mine: {incorrect(5)}."),
        response(5, path="tips"),
    )
    write("strategies.jsonl", strategy("tips"))
    build(registry, chat_server, step={**NO_SHARES, "prompt": "{{ question }} {{ contexts }}"})
    pairs = rows(registry, "pairs", "prompt", "chosen", "rejected")
    texts = [(chosen["content"], rejected["content"]) for _, [chosen], [rejected] in pairs]
    assert texts == [
        (f"It is {correct(1)}, says tips.", f"It is {incorrect(1)}, says base."),
        (f"It is {correct(5)}, says tips.", f"Mine: {incorrect(5)}."),
    ]
    assert pairs[0][0][0]["content"] == "What is the capital of land 1? [1] Guide 0: Bburg1 is the capital of land 1."
    assert len(rows(registry, "sft", "completion")) == 4
    dropped = {"concludes with the incorrect answer": 1, "pairs: the policy has no poisoned answer": 2}
    assert measured(registry, "dropped") == dropped
    assert all(normalise(chosen) != normalise(rejected) for chosen, rejected in texts)


def test_revised_responses_are_chosen_and_the_policys_poisoned_ones_rejected(
    registry: Registry, chat_server: ChatServer
) -> None:
    write(
        "responses.jsonl",
        response(1, right=False),
        response(1, path="tips"),
        response(2, right=False),
        response(2, path="tips"),
    )
    first = response(1, path="tips")
    write("revised.jsonl", {**first, "response": f"The capital is {correct(1)}.", "revised_from": first["response"]})
    write("strategies.jsonl", strategy("tips"))
    build(registry, chat_server, revised=True, step=NO_SHARES)
    [[chosen, rejected]] = rows(registry, "pairs", "chosen", "rejected")
    assert (chosen[0]["content"], rejected[0]["content"]) == ("The capital is Aville1.", "It is Bburg1, says base.")
    assert len(rows(registry, "sft", "completion")) == 1
    parents = ask(registry, "select parent from row_lineage where child = 'demo/step.pairs' order by 1")
    assert parents == [("demo/responses",), ("demo/revised",), ("demo/strategies",)]


def test_shares_that_leave_no_room_are_refused(registry: Registry, chat_server: ChatServer) -> None:
    write("responses.jsonl", response(1))
    write("strategies.jsonl", strategy("base"))
    with pytest.raises(PipelineError, match="leave no room for conflicts: they add up to 1"):
        build(registry, chat_server, step={"ike_share": 0.5, "closed_book_share": 0.5})


@pytest.mark.parametrize(
    ("rest", "available", "found"),
    [
        (70, (100, 100), (20, 10)),
        (70, (20, 10), (20, 10)),
        (72, (8, 100), (8, 9)),  # 80 + 9 rows, a tenth of which is closed book
        (72, (0, 0), (0, 0)),
        (0, (9, 9), (0, 0)),
    ],
)
def test_shares_refer_to_all_rows(rest: int, available: tuple[int, int], found: tuple[int, int]) -> None:
    ike, closed_book = available
    shares = {"ike": 0.2, "closed_book": 0.1}
    counts = amounts(rest, shares, {"ike": ike, "closed_book": closed_book})  # type: ignore[arg-type]
    assert (counts["ike"], counts["closed_book"]) == found
