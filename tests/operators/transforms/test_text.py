"""When two texts are the same, and which text of a row counts."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.operator import Record, Table
from operators.records import MathProblem, MathSolution, Message, Persona, SFTExample
from operators.transforms.text import main_field, texts_of, tokens, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello world"),
        ("“Don’t”", '"DON\'T"'),
        ("well-known", "well known"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("Straße", "STRASSE"),
        ("wa\u200bter\u00ad", "water"),
        ("5 − 3", "5 - 3"),
        ("x²", "x^2"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_variants_of_spelling_are_the_same_text(one: str, other: str) -> None:
    assert tokens(one) == tokens(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 + 4", "3 - 4"),
        ("3*4", "3/4"),
        ("1.5", "15"),
        ("-3", "3"),
        ("(3 + 4) * 2", "3 + (4 * 2)"),
        ("5!", "5"),
        ("10²", "102"),
        ("x < 5", "x > 5"),
        ("😀", "😢"),
        ("50%", "50"),
    ],
)
def test_a_different_problem_is_a_different_text(one: str, other: str) -> None:
    assert tokens(one) != tokens(other)


def test_words_are_counted_in_scripts_without_blanks() -> None:
    assert words(tokens("小明有 5 个苹果。")) == ["小", "明", "有", "5", "个", "苹", "果"]


class Turned(Record):
    """A record type from another package."""

    case_id: str
    label: str | None = None
    turns: list[Message] = []
    tags: list[str] = []


def test_the_main_field_is_the_first_text_that_is_not_an_id() -> None:
    found = {each: main_field(each) for each in (MathProblem, MathSolution, Persona, SFTExample, Message, Turned)}
    assert list(found.values()) == ["question", "question", "persona", "prompt", "content", "label"]


def test_the_text_of_an_empty_field_is_empty() -> None:
    rows = [
        Turned(case_id="1"),
        Turned(case_id="2", label="b", turns=[Message(role="user", content="hi")], tags=["x", "y"]),
    ]
    table: Table[Turned] = Table(Turned, Turned.to_table(rows))
    assert texts_of(table, ["label", "turns", "tags"]) == [("", "", ""), ("b", "hi", "x\ny")]
    assert texts_of(Table(Turned, pa.Table.from_pylist([], schema=Turned.arrow_schema()))) == []
