"""A content id depends on the values of rows, not on how they are stored."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import Record
from registry.records.content import BATCH_ROWS, ContentHash, content_id, row_id, row_ids
from tests.registry.records.test_record import Everything, everything


@settings(max_examples=50)
@given(rows=st.lists(everything, min_size=1, max_size=8), cut=st.integers(0, 8))
def test_chunking_does_not_matter(rows: list[Everything], cut: int) -> None:
    table = Everything.to_table(rows)
    whole = content_id(table.schema, [table])
    assert content_id(table.schema, [table.slice(0, cut), table.slice(cut)]) == whole
    assert content_id(table.schema, [Everything.to_table([row]) for row in rows]) == whole


def test_chunks_across_the_batch_boundary_do_not_matter() -> None:
    table = pa.table({"n": list(range(3 * BATCH_ROWS + 5)), "s": [str(i % 7) for i in range(3 * BATCH_ROWS + 5)]})
    pieces = [table.slice(0, BATCH_ROWS - 1), table.slice(BATCH_ROWS - 1, 2), table.slice(BATCH_ROWS + 1)]
    assert content_id(table.schema, pieces) == content_id(table.schema, [table])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([["a", "bc"]], [["ab", "c"]]),
        ([[None]], [[""]]),
        ([["a"], ["b"]], [["b"], ["a"]]),
        ([["a"], []], [[], ["a"]]),
        ([None], [[]]),
    ],
)
def test_different_rows_have_different_ids(one: list[object], other: list[object]) -> None:
    schema = pa.schema([("x", pa.list_(pa.string()))])
    assert content_id(schema, [pa.table({"x": one}, schema=schema)]) != content_id(
        schema, [pa.table({"x": other}, schema=schema)]
    )


def test_bytes_behind_a_null_do_not_count() -> None:
    mask = pa.array([False, True])
    one = pa.Array.from_buffers(pa.int64(), 2, [pa.array([True, False]).buffers()[1], pa.array([1, 99]).buffers()[1]])
    other = pa.array([1, None], pa.int64())
    schema = pa.schema([("x", pa.int64())])
    assert one.is_null().equals(mask)
    assert content_id(schema, [pa.table({"x": one})]) == content_id(schema, [pa.table({"x": other})])


def test_a_row_id_survives_widening_of_its_type_and_of_nested_types() -> None:
    class Inner(Record):
        a: str

    class Wider(Record):
        a: str
        b: str | None = None

    class Old(Record):
        at: dt.datetime
        inner: Inner
        many: list[Inner]

    class New(Record):
        at: dt.datetime
        inner: Wider
        many: list[Wider]
        note: str | None = None

    at = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    old = Old(at=at, inner=Inner(a="x"), many=[Inner(a="y")])
    new = New(at=at, inner=Wider(a="x"), many=[Wider(a="y")])
    assert row_id(old) == row_id(new)
    assert row_id(new) != row_id(new.model_copy(update={"inner": Wider(a="x", b="z")}))
    assert list(row_ids(Old.to_table([old]))) == [row_id(old)]


@settings(max_examples=30)
@given(rows=st.lists(everything, min_size=2, max_size=8), cut=st.integers(0, 8))
def test_a_content_id_continues_where_it_stopped(rows: list[Everything], cut: int) -> None:
    table = Everything.to_table(rows)
    first = ContentHash(table.schema, resumable=True)
    first.update(table.slice(0, cut))
    state = json.loads(json.dumps(first.state()))
    second = ContentHash.resumed(table.schema, state, first.content_id())
    second.update(table.slice(cut))
    assert second.content_id() == content_id(table.schema, [table])


def test_a_state_is_kept_only_where_it_is_asked_for() -> None:
    assert ContentHash(pa.schema([])).state() is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {**state, "rows": 3},
        lambda state: {**state, "streams": {}},
        lambda state: {**state, "streams": {name: of[:-2] for name, of in state["streams"].items()}},
        lambda state: {**state, "streams": {name: "00" + of[2:] for name, of in state["streams"].items()}},
        lambda state: {**state, "streams": dict.fromkeys(state["streams"], "ff" * 40)},
        lambda state: {**state, "streams": ["00"]},
        lambda _: {},
    ],
)
def test_a_content_id_continues_from_its_own_state_only(spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    table = pa.table({"s": ["a", "b"]})
    content = ContentHash(table.schema, resumable=True)
    content.update(table)
    with pytest.raises(ValueError, match="state"):
        ContentHash.resumed(table.schema, spoil(content.state() or {}), content.content_id())
