"""Rows that are typed by column equal those that are typed one by one."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import pyarrow as pa
import pytest
from pydantic import Field

from engine.sources.arrow_rows import ArrowRows
from engine.sources.coercion import coerced
from engine.sources.columnar import typed
from registry import Record


class Plain(Record):
    number: int = 0
    text: str = "x"
    note: str | None = None
    kind: Literal["a", "b"] | None = "a"
    share: float = 0.0
    sure: bool = True
    raw: bytes = b""
    day: dt.date = dt.date(2026, 1, 2)
    when: dt.datetime = dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))


class Bounded(Record):
    number: int = Field(ge=0)


class Named(Record):
    number: int = Field(validation_alias="n")


class Made(Record):
    number: int
    texts: list[str] = Field(default_factory=list)


def one_by_one(batch: pa.Table, record: type[Record]) -> pa.Table:
    """The rows of a batch, each validated."""
    made = []
    for row in ArrowRows(batch, "d.parquet", 1, frozenset()):
        assert row.fields is not None
        made.append(record.model_validate(coerced(record, row.fields, lambda _: None)))
    return record.to_table(made)


def values(kind: pa.DataType, *numbers: int | None) -> pa.Array:
    """The bits of numbers, read as another type."""
    return pa.array(numbers, pa.int64() if kind.bit_width == 64 else pa.int32()).view(kind)


FITTING: dict[str, dict[str, Any]] = {
    "integers": {"number": pa.array([-128, 127], pa.int8())},
    "unsigned": {"number": pa.array([0, 2**32 - 1], pa.uint32())},
    "texts": {"text": pa.array(["é", ""])},
    "large texts": {"text": pa.array(["é", ""], pa.large_string()), "number": pa.array([1, 2])},
    "nulls": {"note": pa.array([None, "x"]), "kind": pa.array(["b", None])},
    "only nulls": {"note": pa.array([None, None], pa.string())},
    "floats": {"share": pa.array([-0.0, 1e308])},
    "booleans": {"sure": pa.array([True, False])},
    "bytes": {"raw": pa.array([b"\xff", b""])},
    "dates": {"day": values(pa.date32(), -719_162, 2_932_896)},
    "moments": {"when": values(pa.timestamp("us"), 0, -62_135_596_800_000_000)},
    "moments with a zone": {"when": values(pa.timestamp("us", tz="UTC"), 1, 253_402_300_799_999_999)},
}


@pytest.mark.parametrize("columns", FITTING.values(), ids=FITTING)
def test_plain_values_are_typed_by_column(columns: dict[str, pa.Array]) -> None:
    batch = pa.table(columns)
    table = typed(batch, Plain, {})
    assert table is not None
    assert table.combine_chunks().equals(one_by_one(batch, Plain))


LOOKED_AT: dict[str, dict[str, Any]] = {
    "a null": {"number": pa.array([1, None])},
    "too large": {"number": pa.array([1, 2**64 - 1], pa.uint64())},
    "a number as text": {"text": pa.array([1, 2])},
    "a text as number": {"number": pa.array(["1", "2"])},
    "a float as number": {"number": pa.array([1.0, 2.0])},
    "a number as float": {"share": pa.array([1, 2])},
    "a narrow float": {"share": pa.array([0.1], pa.float32())},
    "not finite": {"share": pa.array([0.5, float("nan")])},
    "not UTF-8": {"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())},
    "a surrogate": {"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xed\xa0\x80"]).buffers())},
    "another constant": {"kind": pa.array(["a", "c"])},
    "a later day": {"day": values(pa.date32(), 2_932_897)},
    "an earlier moment": {"when": values(pa.timestamp("us"), -62_135_596_800_000_001)},
    "a later moment": {"when": values(pa.timestamp("us", tz="UTC"), 253_402_300_800_000_000)},
    "another unit": {"when": values(pa.timestamp("ns"), 1)},
    "another zone": {"when": values(pa.timestamp("us", tz="Europe/Berlin"), 1)},
    "a dictionary": {"text": pa.array(["a", "b"]).dictionary_encode()},
    "an unknown column": {"more": pa.array([1, 2])},
    "no rows": {"number": pa.array([], pa.int64())},
}


@pytest.mark.parametrize("columns", LOOKED_AT.values(), ids=LOOKED_AT)
def test_a_batch_with_anything_else_is_read_row_by_row(columns: dict[str, pa.Array]) -> None:
    assert typed(pa.table(columns), Plain, {}) is None


@pytest.mark.parametrize("record", [Bounded, Named, Made])
def test_types_that_do_more_than_look_at_values_are_read_row_by_row(record: type[Record]) -> None:
    assert typed(pa.table({"number": [1]}), record, {}) is None


def test_a_field_without_a_column_or_a_default_is_reported_row_by_row() -> None:
    class Needed(Record):
        number: int
        text: str

    assert typed(pa.table({"number": [1]}), Needed, {}) is None


def test_columns_are_renamed_unless_two_get_the_same_name() -> None:
    batch = pa.table({"n": [1], "text": ["a"]})
    table = typed(batch, Plain, {"n": "number"})
    assert table is not None
    assert table.column("number").to_pylist() == [1]
    assert typed(batch, Plain, {"n": "text"}) is None
