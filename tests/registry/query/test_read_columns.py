"""Sessions whose rows are read in another way, as for pages, which keep columns, give the same answers as others."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pyarrow as pa
import pytest

from registry import DataObject, Registry
from registry.query.session import Session
from registry.records.schema import fields_of
from tests.registry.catalog.test_catalog import commit, draft

ROWS = 40
TIMES = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=number) for number in range(ROWS)]
COLUMNS = {
    "text": pa.array([None if n % 7 == 0 else f"w{n}" for n in range(ROWS)], pa.large_string()),
    "share": pa.array([None if n % 11 == 0 else float("nan") if n % 5 == 0 else n / 3 for n in range(ROWS)], pa.float64()),
    "whole": pa.array([None if n % 9 == 0 else n - 20 for n in range(ROWS)], pa.int64()),
    "flag": pa.array([None if n % 4 == 0 else n % 3 == 0 for n in range(ROWS)], pa.bool_()),
    "day": pa.array([each.date() for each in TIMES], pa.date32()),
    "moment": pa.array(TIMES, pa.timestamp("us", "UTC")),
    "bits": pa.array([bytes([n]) for n in range(ROWS)], pa.binary()),
    "items": pa.array([[n, n + 1] for n in range(ROWS)], pa.list_(pa.int64())),
    "turn": pa.array([{"number": n, "role": f"x{n % 3}"} if n % 6 else None for n in range(ROWS)]),
    "kind": pa.array([f"c{n % 3}" for n in range(ROWS)]).dictionary_encode(),
    "a name": pa.array([f"q{n}" for n in range(ROWS)], pa.large_string()),
}
CONDITIONS = [
    "share > 3",
    "share <= 3",
    "share <> 3",
    "share = 'nan'::double",
    "share >= 'nan'::double",
    "share < 'nan'::double",
    "share in (1, 2, 'nan'::double)",
    "share between 2 and 5",
    "share is null",
    "text = 'w1' or whole = 3",
    "text not in ('w1')",
    "text like 'w1%'",
    "whole is distinct from 3",
    "whole in (1, 2, 3)",
    "not flag",
    "flag is null",
    "day = date '2020-01-02'",
    "moment > timestamptz '2020-01-01 05:00:00+00'",
    "bits > '\\x20'::blob",
    "items[1] > 4",
    "turn.number = 5 and turn.role = 'x2'",
    "turn is null",
    "kind = 'c1'",
    "kind > 'c0'",
    "\"a name\" > 'q3' and row > 30",
    "row in (1, 2, 30)",
    "text > 'w3' and share > 2 and whole > 0",
]


@contextmanager
def both(registry: Registry, asked: list[tuple[str, ...]]) -> Iterator[tuple[Session, Session]]:
    """An ordinary session, and one with its own reader, which appends the requested columns to `asked`."""

    def read(sha256: str, names: Sequence[str]) -> pa.Table:
        asked.append(tuple(names))
        return registry.store.read_table(sha256, names)

    with registry.session() as plain, closing(Session(registry.catalog, registry.store, registry.reviews, read=read)) as other:
        yield plain, other


def test_rows_have_the_same_numbers_and_order(registry: Registry) -> None:
    """An object may be in a version more than once."""
    size = 20_000
    words = [[f"{row}" for row in range(start, start + size)] for start in (0, size)]
    first, second = (draft(registry, "p/big", each, "k").data[0] for each in words)
    commit(registry, draft(registry, "p/big", words[0], "k").model_copy(update={"data": (first, second, first)}))
    asked: list[tuple[str, ...]] = []
    with both(registry, asked) as (plain, session):
        for query in (
            'select * from "p/big"',
            'select row from "p/big"',
            "select word, row from \"p/big@1\" where word like '%9'",
            "select word from \"p/big\" where row >= 39998 and word <> '0'",
            "select row, word from \"p/big\" where word = '12345'",
            'select count(*) from "p/big"',
            'select max(row) from "p/big"',
            'select row, word from "p/big" limit 2 offset 50000',
            'select count(*) from "p/big" a join "p/big@1" b on a.row = b.row and a.word = b.word',
        ):
            assert session.arrow(query).equals(plain.arrow(query)), query
        assert session.arrow("select row from \"p/big\" where word = '12345'").column(0).to_pylist() == [12345, 52345]
    assert set(asked) == {("word",)}


@pytest.fixture
def typed(registry: Registry) -> Registry:
    """A version with many types, in two objects."""
    table, parts = pa.table(COLUMNS), []
    for start in (0, ROWS // 2):
        stored = registry.store.put_table(table.slice(start, ROWS // 2))
        parts.append(DataObject(sha256=stored.sha256, rows=ROWS // 2, bytes=stored.bytes))
    whole = draft(registry, "p/typed", ["a"], "k")
    commit(registry, whole.model_copy(update={"data": tuple(parts), "fields": fields_of(table.schema)}))
    return registry


def test_conditions_mean_the_same(typed: Registry) -> None:
    """DuckDB passes some conditions to Arrow, which has other rules for nulls and NaN, with columns that nothing else needs."""
    with both(typed, []) as (plain, session):
        for condition in CONDITIONS:
            for columns in ("row", "*", "count(*)", "text"):
                query = f'select {columns} from "p/typed" where {condition}'
                expected, found = plain.arrow(query), session.arrow(query)
                assert found.schema == expected.schema, query
                assert str(found.to_pylist()) == str(expected.to_pylist()), query  # as text, because NaN is not equal to NaN
