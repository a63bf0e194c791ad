"""Outputs that the parameters of an operator name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from engine.operator import DeclarationError, Params, Record, Table, operator


class Item(Record):
    """A row."""

    text: str


class Named(Params):
    """Names outputs."""

    names: list[str]

    def output_names(self) -> Sequence[str]:
        """The names of its field."""
        return self.names


@operator(outputs={"*": "rows"})
def sorted_out(rows: Table[Record], params: Named) -> Iterator[tuple[str, Record]]:
    """Yield every row to the first output."""
    for row in rows:
        yield params.names[0], row


def test_the_names_and_types_follow_from_the_parameters() -> None:
    made = sorted_out.typed({"rows": Item}).with_outputs(Named(names=["b", "a"]))
    assert made.outputs == {"b": Item, "a": Item}
    assert made.like == {"b": "rows", "a": "rows"}
    assert sorted_out.names_outputs
    assert not made.names_outputs


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a b"], ["1"], [""]])
def test_names_that_outputs_cannot_have_are_refused(names: list[str]) -> None:
    with pytest.raises(DeclarationError, match=r"Named\.output_names returns .* a list of different words"):
        sorted_out.with_output_names(Named(names=names))


def test_a_declaration_needs_the_method_and_no_other_output() -> None:
    def op(rows: Table[Record], *, n: int) -> Iterator[tuple[str, Record]]:
        yield from ()

    def two(rows: Table[Record], params: Named) -> Iterator[tuple[str, Record]]:
        yield from ()

    with pytest.raises(DeclarationError, match="whose method `output_names` returns the names"):
        operator(outputs={"*": "rows"})(op)
    with pytest.raises(DeclarationError, match="expected no other output"):
        operator(outputs={"*": "rows", "rest": Item})(two)
    with pytest.raises(DeclarationError, match="there is no such input"):
        operator(outputs={"*": "rosw"})(two)
