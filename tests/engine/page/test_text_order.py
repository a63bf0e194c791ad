"""Rows in the order of their texts, found without sorting all of them: the result is the same."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from engine.page.facts.datasets import text_order
from engine.page.facts.datasets.text_order import TextOrder

PIECES = ("a", "b", "\0", "é", "\U0001f600", "ab" * 5, "word word ")
"""Texts made of these end, differ and continue at every place of a word of eight bytes."""


def drawn(draw: random.Random) -> list[str | None]:
    """Texts and nulls, many of them alike."""
    return [
        None if draw.random() < 0.1 else "".join(draw.choices(PIECES, k=draw.randrange(6)))
        for _ in range(draw.randrange(1, 40))
    ]


def chunked(texts: list[str | None], draw: random.Random, kind: pa.DataType) -> list[pa.Array]:
    """The texts in two arrays, one of which begins within its memory."""
    at = draw.randrange(len(texts) + 1)
    start = pa.array(["not a part of it", *texts[:at]], kind)[1:]
    return [start, pa.array(texts[at:], kind)]


@pytest.mark.parametrize("few", [1, 4])
@pytest.mark.parametrize("passes", [0, 1, 100])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_places_are_those_of_an_order_of_all(few: int, passes: int, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_order, "_FEW", few)
    monkeypatch.setattr(text_order, "_PASSES", passes)
    draw = random.Random(f"{few} {passes} {kind}")
    for _ in range(60):
        texts = drawn(draw)
        rows = sorted(draw.sample(range(len(texts)), draw.randrange(1, len(texts) + 1)))
        order = TextOrder(chunked(texts, draw, kind))
        order = TextOrder(order.chunks, order.first_keys()) if draw.random() < 0.5 else order
        for descending in (False, True):
            known = [row for row in rows if texts[row] is not None]
            known.sort(key=lambda row: str(texts[row]).encode(), reverse=descending)
            expected = known + [row for row in rows if texts[row] is None]
            start = draw.randrange(len(rows) + 2)
            stop = start + draw.randrange(1, 20)
            found = order.between(np.array(rows), start, stop, descending=descending)
            assert found.tolist() == expected[start:stop], (texts, rows, start, stop)


def test_rows_in_the_middle_of_many_are_found_by_their_eight_bytes() -> None:
    texts = [f"the same start of all of them, then {(7919 * number) % 10_007:05}" for number in range(10_007)]
    order = TextOrder([pa.array(texts[:4000]), pa.array(texts[4000:])])
    found = order.between(np.arange(10_007), 5000, 5050, descending=False)
    assert [texts[row][-5:] for row in found] == [f"{number:05}" for number in range(5000, 5050)]
