"""Questions about countries: of several kinds, with all accepted answers, or with options of which one is right."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from operators.conformal.equivalence import chosen_option, qa_form
from operators.records import Question
from operators.sources.country_questions import OPTIONS, facts, problems_with, questions


def rows(task: str = "open", limit: int = 10_000, seed: int = 1, **settings) -> list[Question]:
    return [Question(**row) for row in questions(task, limit, seed, settings)]


def test_there_are_hundreds_of_questions_of_every_kind_without_repetition():
    found = rows(population=0)
    assert len(found) > 900
    kinds = Counter(row.group for row in found)
    assert set(kinds) == {"capital", "country", "continent", "neighbour", "demonym", "domain"}
    assert min(kinds.values()) > 100
    assert len({row.question for row in found}) == len({row.id for row in found}) == len(found)


def test_well_known_facts_are_correct():
    by_id = {row.id: row for row in rows(population=0)}
    assert by_id["capital: France"].answers == ["Paris"]
    assert by_id["country: Germany"].question == "Berlin is the capital of which country?"
    assert "Germany" in by_id["country: Germany"].answers
    assert by_id["continent: Kenya"].answers == ["Africa"]
    assert "South America" in by_id["continent: Brazil"].answers
    assert "North America" in by_id["continent: Canada"].answers
    assert set(by_id["neighbour: Portugal"].answers) == {"Spain"}
    assert "Italians" in by_id["demonym: Italy"].answers
    assert by_id["domain: Japan"].answers == [".jp"]


def test_no_question_contains_its_answer():
    for row in rows(population=0, kinds=["capital", "country", "continent"]):
        assert f" {qa_form(row.answers[0])} " not in f" {qa_form(row.question)} ", row


def test_options_have_exactly_one_right_answer():
    for row in rows("options"):
        assert row.options is not None
        assert len(row.options) == len(set(row.options)) == OPTIONS
        assert [chosen_option(option, row.options) in row.answers for option in row.options].count(True) == 1
    places = Counter(row.options.index(row.answers[0]) for row in rows("options") if row.options)
    assert min(places.values()) > 0.15 * sum(places.values()), "the right one is anywhere"
    accepted = {fact.question: fact.answers for fact in facts()}
    for row in rows("options"):
        wrong = set(row.options or ()) - set(row.answers)
        assert not wrong & set(accepted[row.question]), "no other option is right, too"


def test_splits_share_no_country_and_a_limit_draws_the_same_first_rows():
    train, test = ({row.id.partition(": ")[2] for row in rows(split=split) if row.id} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert rows(limit=20) == rows()[:20]
    assert rows(seed=2) != rows()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("closed", {}, "its tasks: open, options"),
        ("open", {"kind": ["capital"]}, "did you mean 'kinds'"),
        ("open", {"kinds": ["rivers"]}, "kinds"),
        ("options", {"population": -1}, "population"),
    ],
)
def test_wrong_settings_are_explained(task, settings, message):
    assert any(message in text for text in problems_with(task, settings))


def test_correct_settings_give_no_problems():
    for task, split in product(("open", "options"), ("train", "test", "all")):
        assert problems_with(task, {"split": split, "kinds": ["capital"]}) == []
