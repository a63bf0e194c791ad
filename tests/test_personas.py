"""The starter personas cover all occupation classes, are told apart easily, and bring no numbers into a problem."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations
from pathlib import Path

import pipelines
from operators.math.occupations import OCCUPATIONS

FILE = Path(pipelines.__file__).parent / "personas.jsonl"
NUMBER = re.compile(
    r"\d|\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|twenty|hundred|thousand|million)\b", re.I
)
RUN = 8


@cache
def personas() -> list[dict[str, str]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_every_line_is_a_persona_and_nothing_else() -> None:
    for each in personas():
        assert each.keys() == {"persona", "occupation"}, each


def test_each_class_has_twenty_and_there_are_220_in_all() -> None:
    counts = Counter(each["occupation"] for each in personas())
    assert set(counts) == set(OCCUPATIONS)
    assert min(counts.values()) >= 20
    assert counts.total() >= 220


def test_no_persona_brings_a_number_that_could_slip_into_a_problem() -> None:
    for each in personas():
        assert not NUMBER.search(each["persona"]), each["persona"]


def test_each_is_long_enough_to_be_somebody_and_short_enough_for_a_prompt() -> None:
    for each in personas():
        assert 20 <= len(each["persona"].split()) <= 70, each["persona"]


def test_no_two_personas_share_eight_words_in_a_row() -> None:
    holders: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for number, each in enumerate(personas()):
        text = words(each["persona"])
        for start in range(len(text) - RUN + 1):
            holders[tuple(text[start : start + RUN])].add(number)
    assert holders
    assert [run for run, numbers in holders.items() if len(numbers) > 1] == []


def test_no_two_personas_have_half_of_their_words_in_common() -> None:
    vocabularies = [set(words(each["persona"])) for each in personas()]
    for one, other in combinations(vocabularies, 2):
        assert 2 * len(one & other) < len(one | other), one & other
