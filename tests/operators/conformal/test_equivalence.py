"""Which sampled texts are the same answer, which options they name, and which are accepted."""

from __future__ import annotations

import pytest

from operators.conformal.equivalence import (
    accents_are_loose,
    accepted,
    chosen_option,
    merged,
    qa_form,
    reading,
    right_options,
    short,
)
from operators.conformal.pools import answered
from operators.records import SampledAnswers


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Paris", "Paris"),
        ("\n  Paris \nIt lies on the Seine.", "Paris"),
        ("Answer: Paris", "Paris"),
        ("Final answer: **Paris**", "Paris"),
        ('A: "Paris"', "Paris"),
        ("A: The Louvre", "The Louvre"),
        ("", ""),
    ],
)
def test_the_answer_is_the_first_line_without_its_label_and_quotes(text, wanted):
    assert short(text) == wanted


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Beatles", "beatles", True),
        ("São Paulo!", "Sao  Paulo", True),
        ("U.S.A.", "USA", True),
        ("3.5", "35", False),
        ("3.50", "3,50", False),
        ("1,000,000", "1000000", True),
        ("-5", "5", False),
        ("about \u22125 degrees.", "About -5 degrees", True),
        ("3-4", "3 4", True),
        ("Saint-Denis", "saint denis", True),
        ("O'Neill", "ONeill", True),
        ("Paris, France.", "paris france", True),
        ("a", "the", False),
        ("Guinea", "Guinea-Bissau", False),
        ("$5", "5", True),
        ("Straße", "STRASSE", True),
    ],
)
def test_question_answering_compares_words_without_articles_and_punctuation(one, other, same):
    assert (qa_form(one) == qa_form(other)) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bò", "bơ"),
        ("й", "и"),
        ("かき", "がき"),
        ("ﾊﾞｽ", "ハス"),
        ("กา", "ก้า"),
        ("कि", "की"),
        ("क़लम", "कलम"),
        ("νόμος", "νομός"),
        ("ı", "i"),
        ("10²", "102"),
        ("log₂8", "log28"),
        ("1½", "11/2"),
        ("C++", "C"),
        ("C#", "C"),
        ("C♯", "C♭"),
        ("A+", "A"),
        ("A-", "A"),
        ("O+", "O-"),
        ("x > 2", "x < 2"),
    ],
)
def test_marks_and_signs_that_distinguish_answers_are_kept(one, other):
    assert qa_form(one) != qa_form(other)


@pytest.mark.parametrize(
    ("question", "texts", "loose"),
    [
        ("What is the largest city of Brazil?", ["São Paulo", "Sao Paulo", "Rio"], True),
        ("Who sang it?", ["Beyoncé", "Beyonce"], True),
        ("What is the Vietnamese word for three?", ["ba", "bà", "bơ"], False),
        ("What is the Vietnamese word for three?", ["bà", "bá", "ba"], False),
        ("¿Cuánto dura?", ["un año", "un ano"], False),
        ("Hauptstadt von Land 0", ["schon", "schön"], False),
        ("What is it in Russian?", ["мой", "мои"], False),
    ],
)
def test_accents_are_ignored_only_in_english_answers_that_do_not_differ_in_them(question, texts, loose):
    assert accents_are_loose(question, texts) is loose


async def test_a_set_with_another_word_does_not_cover():
    row = SampledAnswers(question="海で とれる もの", answers=["かい"], samples=["がい", "がい", "かい"])
    found = await answered([row], "qa", None, 0.85)
    assert found.texts == [["がい", "かい"]]
    assert found.pools.correct.tolist() == [[False, True]]


def test_subscripts_in_formulas_are_ignored():
    assert qa_form("H₂O") == qa_form("H2O")


OPTIONS = ["Paris", "Rome", "New York", "York"]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", "Rome"),
        ("b", "Rome"),
        ("(C)", "New York"),
        ("C. New York", "New York"),
        ("The answer is B.", "Rome"),
        ("the correct answer is: D", "York"),
        ("Option A", "Paris"),
        ("rome.", "Rome"),
        ("It is Rome, I think", "Rome"),
        ("York", "York"),
        ("the answer is  :   B", "Rome"),
        ("the answer is" + " " * 100_000 + "x!", None),
        ("E", None),
        ("A big city", None),
        ("Paris or Rome", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_an_option_is_named_by_its_letter_or_its_text(text, option):
    assert chosen_option(text, OPTIONS) == option


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("5", ["5", "-5"], "5"),
        ("-5", ["-5", "5"], "-5"),
        ("C", ["C", "C++", "C#", "Java"], "C#"),  # a letter was asked for
        ("C++", ["C", "C++", "C#", "Java"], "C++"),
        ("x > 2", ["x > 2", "x < 2"], "x > 2"),
        ("III", ["I", "II", "III"], "III"),
        ("I", ["I", "II", "III"], "I"),
        ("it is x < 2", ["x > 2", "x < 2"], "x < 2"),
        ("it is x = 2", ["x > 2", "x < 2"], None),
    ],
)
def test_options_that_differ_only_in_signs_are_distinguished(text, options, option):
    assert chosen_option(text, options) == option


def test_an_accepted_answer_names_an_option_by_its_text_first():
    assert right_options(["C"], ["C", "C++", "C#", "Java"]) == {"C"}
    assert right_options(["B"], OPTIONS) == {"Rome"}
    assert right_options(["5"], ["5", "-5"]) == {"5"}
    assert right_options(["Berlin"], OPTIONS) == set()


def test_readings_keep_the_text_as_written_next_to_its_normal_form():
    assert reading("exact")(" Paris ") == ("Paris", "Paris", True)
    assert reading("qa")("The Seine.") == ("The Seine.", "seine", True)
    assert reading("math")("2 + 2 = \\boxed{4.0}").form == reading("math")("so it is 4").form
    assert reading("qa", OPTIONS)("B") == ("Rome", "option: 1", True)
    assert reading("exact", OPTIONS)("no idea") == ("no idea", "no idea", False)


async def test_equal_mathematical_answers_are_merged_and_accepted():
    read = reading("math")
    forms = {form: shown for shown, form, _ in map(read, ["\\boxed{\\frac{1}{2}}", "0.5", "\\boxed{x+1}", "\\boxed{1+x}", "7"])}
    stands = await merged(forms)
    assert stands[read("\\boxed{\\frac{1}{2}}")[1]] == stands[read("0.5")[1]]
    assert len(set(stands.values())) == 3
    right = await accepted("math", ["1/2"], forms, None)
    assert {stands[form] for form in right} == {stands[read("0.5")[1]]}


async def test_accepted_answers_may_be_letters_of_options():
    forms = {"option: 1": "Rome", "option: 0": "Paris"}
    assert await accepted("qa", ["B"], forms, OPTIONS) == {"option: 1"}
    assert await accepted("qa", ["Rome"], forms, OPTIONS) == {"option: 1"}


def sampled(*texts: str, answers: tuple[str, ...] = ("Paris",), **more) -> SampledAnswers:
    return SampledAnswers(question="?", answers=list(answers), samples=list(texts), **more)


async def test_pools_are_ordered_by_frequency_then_by_first_sample():
    row = sampled(
        "Lyon", "paris", "Paris", "Nice", "The Paris", "Nice.", answers=("PARIS",), logprobs=[-3, -2, -1, -5, -4, -4.5]
    )
    found = await answered([row], "qa", None, 0.85)
    assert found.texts == [["paris", "Nice", "Lyon"]]
    assert found.pools.counts.tolist() == [[3, 2, 1]]
    assert found.pools.first.tolist() == [[1, 2, 0]]
    assert found.pools.correct.tolist() == [[True, False, False]]
    assert found.pools.log_probability.tolist() == [[-1, -4.5, -3]]
    assert not found.pools.similarity.any()


async def test_pools_of_different_sizes_are_padded():
    found = await answered([sampled("a b", "c d"), sampled("e f", "e f")], "exact", None, 0.85)
    assert found.pools.counts.tolist() == [[1, 1], [2, 0]]
    assert found.pools.log_probability is None
    assert (await answered([], "qa", None, 0.85)).pools.counts.shape == (0, 0)


@pytest.mark.parametrize(
    ("one", "other"), [(".5", "5"), ("C*", "C"), ("5%", "5"), ("5°", "5"), ("~p", "p"), ("F* algebra", "F algebra")]
)
def test_signs_next_to_a_number_or_letter_count(one: str, other: str) -> None:
    assert qa_form(one) != qa_form(other)


@pytest.mark.parametrize(
    ("one", "other"), [("5%", "5 percent"), ("*Paris*", "Paris"), ("**C**", "C"), ("0.5.", "0.5"), ("no. 5", "no 5")]
)
def test_decorative_signs_are_ignored(one: str, other: str) -> None:
    assert qa_form(one) == qa_form(other)


@pytest.mark.parametrize(
    ("texts", "loose"),
    [
        (["São Paulo", "Sao Paulo"], True),
        (["Beyoncé", "Beyonce"], True),
        (["año", "ano"], False),
        (["sí", "si"], False),
        (["schön", "schon"], False),
    ],
)
def test_accents_are_ignored_only_in_names(texts: list[str], loose: bool) -> None:
    assert accents_are_loose("What is the word for it?", texts) is loose
