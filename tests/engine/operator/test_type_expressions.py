"""Type expressions of pipeline files."""

from __future__ import annotations

import pytest

from engine.operator.type_expressions import TypeExpressionError, parse_type
from registry.records.described import DescribedField, DescribedType

TICKET = DescribedType(kind="struct", fields=(DescribedField(name="text", type=DescribedType(kind="str")),))


def parsed(text: str) -> DescribedType:
    return parse_type(text, {"Ticket": TICKET}.get, lambda: ["Ticket"])


@pytest.mark.parametrize(
    "text",
    [
        "str",
        "int?",
        "datetime",
        "list[str]",
        "list[list[float?]?]?",
        "dict[str, list[int]]",
        "low | medium | high",
        "(low | high)?",
        "list[a | b]",
        "list[(a | b)?]",
        "very high | so-so | 3.5",
    ],
)
def test_a_type_is_read_as_it_is_shown(text: str) -> None:
    assert str(parsed(text)) == text


def test_words_and_names() -> None:
    assert parsed("1 | 2 | -3").words == (1, 2, -3)
    assert parsed("'1' | 2").words == ("1", "2")
    assert parsed("01 | 2").words == ("01", "2")
    assert parsed("'int' | \"a|b\"").words == ("int", "a|b")
    assert parsed("'only'").words == ("only",)
    assert parsed("Ticket | Other").words == ("Ticket", "Other")
    assert parsed("list[Ticket]?") == DescribedType(kind="list", item=TICKET, optional=True)


@pytest.mark.parametrize(
    ("text", "why"),
    {
        "": "a type is missing",
        "strr": "there is no type 'strr'; did you mean 'str'",
        "string": "write str",
        "Tickt": "did you mean 'Ticket'",
        "list": r"write list\[...\]",
        "list[str": "']' is missing",
        "list[]": "there is ']' where a type is expected",
        "str str": "there is no type 'str str'",
        "str int?]": "after the type comes ']'|there is no type",
        "int | str": "int is a type; a field has one type",
        "str | None": "separates words|write `\\?`",
        "low | null": "write `\\?` after a type",
        "low | high?": r"write \(a \| b\)\?",
        "low | low": "the word 'low' is listed twice",
        "low |": "a type is missing",
        "'low": "a quote that is not closed",
        "dict[int, str]": "the keys of a dict are str",
        "dict[str]": "',' is missing",
    }.items(),
)
def test_an_invalid_type_is_explained(text: str, why: str) -> None:
    with pytest.raises(TypeExpressionError, match=why):
        parsed(text)
