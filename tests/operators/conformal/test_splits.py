"""Questions are split by their hash; related ones stay on the same side and count once."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from operators.conformal.splits import SIDES, Shares, split
from operators.records import SampledAnswers


def rows(*questions: str, ids: dict[str, str] | None = None) -> list[SampledAnswers]:
    return [SampledAnswers(question=text, answers=["x"], samples=["x"], id=(ids or {}).get(text)) for text in questions]


MANY = [f"question {number}" for number in range(3000)]


def side_of(found, questions) -> dict[str, str]:
    return {questions[row].question: side for side in SIDES for row in found.rows[side]}


def test_every_question_is_on_one_side_and_the_shares_are_about_right():
    found = split(rows(*MANY), [], Shares(), seed=1)
    sizes = {side: len(found.rows[side]) for side in SIDES}
    assert sum(sizes.values()) == 3000
    assert sizes["tune"] == pytest.approx(600, abs=80)
    assert sizes["calibrate"] == pytest.approx(1200, abs=100)
    assert found.paraphrases == 0


def test_a_question_keeps_its_side_when_others_are_added_removed_or_reordered():
    before = side_of(split(rows(*MANY[:2000]), [], Shares(), seed=1), rows(*MANY[:2000]))
    turned = rows(*reversed(MANY[1000:]))
    after = side_of(split(turned, [], Shares(), seed=1), turned)
    assert all(before[text] == after[text] for text in MANY[1000:2000])
    other = side_of(split(turned, [], Shares(), seed=2), turned)
    assert any(after[text] != other[text] for text in MANY[1000:2000])


def test_rows_with_the_same_source_row_id_or_words_count_once():
    given = rows("one", "two", "The  ONE?", "three", "four", ids={"two": "q2", "three": "q2"})
    found = split(given, [0, 1, 2, 3, 1], Shares(tune=0, calibrate=1, evaluate=0), seed=1)
    drawn = [given[row].question for row in found.rows["calibrate"]]
    assert len(drawn) == 2
    assert len({*drawn} & {"one", "The  ONE?"}) == 1
    assert len({*drawn} & {"two", "three", "four"}) == 1
    assert found.paraphrases == 3


def test_questions_that_differ_in_signs_are_different_and_an_empty_id_does_not_count():
    given = rows(
        "What is 3 + 4?", "What is 3 - 4?", "What is 3 * 4?", ids=dict.fromkeys(("What is 3 + 4?", "What is 3 - 4?"), "")
    )
    assert split(given, [], Shares(tune=0, calibrate=1, evaluate=0), seed=1).paraphrases == 0


def test_the_paraphrase_that_is_drawn_depends_on_the_seed_and_not_on_the_order():
    given = rows(*(f"wording {number}" for number in range(20)))
    shares = Shares(tune=0, calibrate=1, evaluate=0)
    drawn = {given[split(given, [0] * 20, shares, seed).rows["calibrate"][0]].question for seed in range(30)}
    assert len(drawn) > 5
    turned = given[::-1]
    assert {turned[split(turned, [0] * 20, shares, seed).rows["calibrate"][0]].question for seed in range(30)} == drawn


@pytest.mark.parametrize("shares", [{"tune": 0.5}, {"calibrate": 0}, {"tune": -0.1, "evaluate": 0.7}, {"test": 0.1}])
def test_shares_that_do_not_add_up_are_an_error(shares):
    with pytest.raises(ValidationError):
        Shares(**shares)
