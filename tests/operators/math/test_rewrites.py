"""A rewrite is the same problem in other words: it has the same quantities and does not reveal the answer."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from operators.math.persona_augment import draw
from operators.math.rewrites import clean, problem_with, quantities

SHOP = "A shop sells 3 apples for $1.50 and half as many pears. It has 1,200 apples. How many pears?"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (SHOP, {3, "3/2", "1/2", 1200}),
        ("twenty-five cats, two hundred and fifty dogs, five and six birds", {25, 250, 5, 6}),
        ("three thousand two hundred", {3200}),
        ("25% of it, 10 per cent, five percent", {"1/4", "1/10", "1/20"}),
        ("a quarter of the 3/4 and two thirds", {"1/4", "3/4", "2/3"}),
        ("twice a dozen, two dozen, thrice", {2, 12, 24, 3}),
        ("20 quarters on the third day", {20}),
        ("no number at all", set()),
        ("1/0 is none", {1, 0}),
    ],
)
def test_quantities_are_read_in_figures_and_words(text: str, named: set[int | str]) -> None:
    assert quantities(text) == {Fraction(each) for each in named}


@pytest.mark.parametrize(
    ("rewrite", "answer", "problem"),
    [
        ("At her stall Rosa sells three lemons for $1.50, half as many limes, of 1200 lemons. How many limes?", "600", None),
        (SHOP, "600", "the rewrite equals the original"),
        (SHOP.upper().replace(",", ""), "600", "the rewrite equals the original"),
        ("", "600", "the rewrite is empty"),
        ("Rosa sells 3 for $1.50, half as many limes, of 1200. She has 600 limes.", "600", "the rewrite reveals the answer"),
        ("Rosa sells 3 for $1.50, half as many limes, of 1200. Six hundred limes!", "600", "the rewrite reveals the answer"),
        ("Rosa sells three for $1.50, half as many limes. How many limes?", "600", "the rewrite lacks a quantity: 1200"),
        ("Rosa, 7 stalls: 3 for $1.50, half as many of 1200?", "600", "the rewrite adds a quantity: 7"),
        ("One day Rosa sells 3 for $1.50, half as many limes, of 1200. How many?", "600", None),
    ],
)
def test_problems_with_a_rewrite_are_found(rewrite: str, answer: str, problem: str | None) -> None:
    assert problem_with(SHOP, rewrite, answer) == problem


def test_an_answer_in_words_is_revealed_unless_the_problem_names_it() -> None:
    assert problem_with("Which day?", "It is Monday. Which day is it?", "Monday") == "the rewrite reveals the answer"
    assert problem_with("Monday or Friday, which one?", "Is it Friday or is it Monday?", "Monday") is None
    assert problem_with("Of 5 and 3, the larger?", "Which is larger, 3 or 5?", "5") is None
    assert problem_with("Pick A, B or C.", "Choose a letter: A, B, C.", "B") is None


def test_a_rewrite_that_equals_another_is_refused() -> None:
    assert problem_with("Two 4s?", "Both 2 and 4?", "8", others=["both 2, and 4"]) is not None


def test_the_check_of_quantities_can_be_turned_off() -> None:
    assert problem_with(SHOP, "Rosa sells limes. How many?", "600", check_quantities=False) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Here is the rewritten problem:\n\n**Rewritten Problem:** Rosa has 3.", "Rosa has 3."),
        ('"Rosa has 3."', "Rosa has 3."),
        ('Problem: "Rosa" has 3.', '"Rosa" has 3.'),
        ("  Rosa has 3. ", "Rosa has 3."),
        ("Here is the rewritten problem: Rosa has 3.", "Rosa has 3."),
        ("### Rewritten Problem\nRosa has 3.", "Rosa has 3."),
        ("Here are 3 of: pens, cups. How many?", "Here are 3 of: pens, cups. How many?"),
    ],
)
def test_text_around_a_rewrite_is_removed(written: str, meant: str) -> None:
    assert clean(written) == meant


def test_personas_are_drawn_across_classes() -> None:
    classes = ((0, 1, 2), (3,), (4, 5))
    of = {row: number for number, rows in enumerate(classes) for row in rows}
    for seed in range(50):
        rows = draw(classes, 3, random.Random(seed))
        assert sorted(of[row] for row in rows) == [0, 1, 2]
        rows = draw(classes, 5, random.Random(seed))
        assert len(set(rows)) == 5
        assert [sorted(of[row] for row in rows).count(number) for number in range(3)] == [2, 1, 2]
    assert sorted(draw(classes, 99, random.Random(0))) == [0, 1, 2, 3, 4, 5]
    assert draw((), 3, random.Random(0)) == []
    assert draw(classes, 3, random.Random(1)) == draw(classes, 3, random.Random(1))
    assert {draw(classes, 1, random.Random(seed))[0] for seed in range(200)} == {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He walks 100 miles", "a hundred miles"),
        ("It costs $80,000", "80 thousand dollars"),
        ("It costs $1.5 million", "1,500,000 dollars"),
        ("5 million ants", "five million bees"),
        ("3 dozen eggs", "36 eggs"),
        ("6 eggs", "half a dozen eggs"),
        ("3/4 of 8 pies", "three-fourths of 8 pies"),
        ("1/6 of them", "one sixth of them"),
        ("1 1/2 hours", "one and a half hours"),
        ("2.5 hours", "two and a half hours"),
        ("\\frac{3}{10} of them", "three tenths of them"),
        ("the 2nd day", "the second day"),
        ("20% of it", "twenty percent of it"),
    ],
)
def test_a_quantity_is_the_same_in_every_notation(one: str, other: str) -> None:
    assert quantities(one) == quantities(other)


def test_scales_and_parts_belong_to_their_numbers() -> None:
    assert quantities("$2 million") != quantities("$2 thousand")
    assert quantities("He has 3 fifth graders") == {Fraction(3)}
    assert quantities("She eats two, and half of the rest") == {Fraction(2), Fraction(1, 2)}


def test_an_answer_can_be_revealed_as_a_percentage() -> None:
    assert problem_with("What percent of 40 is 10?", "Of 40 nets 10 are torn, 25%?", "25") == "the rewrite reveals the answer"


@pytest.mark.parametrize("rewrite", ["9" * 1500 + " apples?", "1/" + "0" * 1500 + " apples?", "²" * 1500])
def test_a_number_with_too_many_digits_is_refused(rewrite: str) -> None:
    assert problem_with("He has 5 apples.", rewrite, "3") == "the rewrite has a number of more than 1,000 digits"
    assert quantities("5 and " + "9" * 5000) == {Fraction(5)}


def test_a_rewrite_that_is_far_too_long_is_refused() -> None:
    problem = problem_with("He has 5 apples.", "5 apples and " * 1000, "3")
    assert problem == "the rewrite is far longer than the original: 13,000 characters instead of 16"
