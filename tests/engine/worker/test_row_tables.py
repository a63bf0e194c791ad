"""Rows that a batch operator returned are checked by column only where the result is the same as for each row."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any, Literal

import pyarrow as pa
import pytest

from engine.operator import Record
from engine.worker.row_tables import row_table


class Plain(Record):
    """Scalars, one of them with a default."""

    text: str
    number: int
    share: float | None = None
    kind: Literal["a", "b"] = "a"


class Moment(Record):
    """A time."""

    at: dt.datetime


class Turn(Record):
    """A part of Chat."""

    role: str
    content: str


class Chat(Record):
    """Rows in rows."""

    turns: list[Turn]


CHATS = [[{"role": "user", "content": "hi"}], [], [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]]


def plain(**columns: Any) -> pa.Table:
    """Three rows, with other or more columns than usual."""
    return pa.table({"text": ["x", "é", ""], "number": [1, 2, 3], "_row": [0, 1, 2], **columns})


@pytest.mark.parametrize(
    ("table", "record", "places"),
    [
        (plain(), Plain, [0, 1, 2]),
        (plain(_row=pa.array([2, 0, 2], pa.int32())), Plain, [2, 0, 2]),
        (plain(share=[-0.0, 0.5, None], kind=["b", "a", "b"]), Plain, [0, 1, 2]),
        (plain(number=pa.array([1, 2, 3], pa.int8()), other=["u", "v", "w"]), Plain, [0, 1, 2]),
        (plain().slice(1), Plain, [1, 2]),
        (pa.concat_tables([plain().slice(2), plain().slice(0, 2)]), Plain, [2, 0, 1]),
        (plain().drop_columns("_row"), Plain, None),
        (pa.table({"at": pa.array([0, 1], pa.timestamp("us")), "_row": [1, 0]}), Moment, [1, 0]),
    ],
)
def test_rows_checked_by_column_are_those_that_are_read_one_by_one(
    table: pa.Table, record: type[Record], places: list[int] | None
) -> None:
    found = row_table(table, record, 3, None)
    assert found is not None
    assert found.rows.equals(record.to_table(record.from_table(table)), check_metadata=True)
    assert (None if found.places is None else found.places.tolist()) == places


@pytest.mark.parametrize(
    ("table", "record"),
    [
        (plain(_row=[0, 1, 3]), Plain),
        (plain(_row=[0, -1, 2]), Plain),
        (plain(_row=[0, None, 2]), Plain),
        (plain(_row=[[0], [1, 2], []]), Plain),
        (plain(_row=[0.0, 1.0, 2.0]), Plain),
        (plain(number=[1, None, 3]), Plain),
        (plain(number=["1", "2", "3"]), Plain),
        (plain(text=[1, 2, 3]), Plain),
        (plain(share=[math.nan, 1.0, 2.0]), Plain),
        (plain(kind=["a", "b", "c"]), Plain),
        (plain().drop_columns("number"), Plain),
        (plain().slice(3), Plain),
        (pa.table({"_row": [0, 1]}), Moment),
        (pa.table({"turns": pa.array(CHATS, Chat.arrow_schema().types[0]), "_row": [0, 1, 2]}), Chat),
    ],
)
def test_all_others_are_read_one_by_one(table: pa.Table, record: type[Record]) -> None:
    assert row_table(table, record, 3, None) is None


def test_rows_of_any_type_that_are_equal_to_their_sources_are_valid() -> None:
    given = Chat.to_table(map(Chat.model_validate, [{"turns": turns} for turns in CHATS]))
    returned = given.add_column(0, "_row", pa.array([0, 1, 2])).take([2, 0])
    found = row_table(returned, Chat, 3, given)
    assert found is not None
    assert found.rows.equals(given.take([2, 0]), check_metadata=True)
    assert found.places is not None
    assert found.places.tolist() == [2, 0]
    swapped = returned.set_column(0, "_row", pa.array([0, 2]))
    assert row_table(swapped, Chat, 3, given) is None


def test_a_row_equal_to_its_source_is_stored_as_it_was_returned() -> None:
    given = Plain.to_table([Plain(text="x", number=1, share=0.0)])
    returned = given.set_column(2, "share", pa.array([-0.0])).add_column(0, "_row", pa.array([0]))
    found = row_table(returned, Plain, 1, given)
    assert found is not None
    assert not found.passed_on
    assert math.copysign(1, found.rows["share"][0].as_py()) == -1


class Numbers(Record):
    value: float
    more: list[float] = []


@pytest.mark.parametrize(
    ("values", "more", "passed_on"),
    [([-0.0, 1.0], [[-0.0], []], True), ([0.0, 1.0], [[-0.0], []], False), ([-0.0, 1.0], [[0.0], []], False)],
)
def test_another_zero_is_not_passed_on(values: list[float], more: list[list[float]], passed_on: bool) -> None:
    given = Numbers.to_table([Numbers(value=-0.0, more=[-0.0]), Numbers(value=1.0)])
    columns = [pa.array(values, given.schema.types[0]), pa.array(more, given.schema.types[1])]
    returned = pa.Table.from_arrays(columns, schema=given.schema).append_column("_row", pa.array([0, 1]))
    made = row_table(returned, Numbers, 2, given)
    # Others are read one by one, because they have lists.
    assert (made is not None and made.passed_on) == passed_on
