"""Any record type over the closed set, with any values, survives Arrow, Parquet, DuckDB and Hugging Face unchanged."""

from __future__ import annotations

import datetime as dt
import enum
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from registry import ObjectStore, Record
from registry.records.schema import fields_of, missing_fields


class Colour(enum.Enum):
    red = "r"
    none = ""
    snake = "\N{SNAKE}"


class Level(enum.IntEnum):
    low = -(2**63)
    high = 2**63 - 1


class Kind(NamedTuple):
    """An annotation and its values."""

    annotation: Any
    values: st.SearchStrategy[Any]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "\0", "a\0b", "🙂", "\ufeff", "\r\n"]
)
zones = st.sampled_from(
    [
        None,
        dt.UTC,
        dt.timezone(dt.timedelta(hours=14)),
        dt.timezone(-dt.timedelta(hours=9, minutes=30)),
        ZoneInfo("Europe/Berlin"),
    ]
)
# A day away from the ends of the calendar, so that the moment exists in UTC as well.
moments = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=zones)
SCALARS = [
    Kind(str, texts),
    Kind(int, st.integers(-(2**63), 2**63 - 1)),
    Kind(float, st.floats()),
    Kind(bool, st.booleans()),
    Kind(bytes, st.binary(max_size=8)),
    Kind(dt.datetime, moments),
    Kind(dt.date, st.dates()),
    Kind(Literal["a", "", "🙂"], st.sampled_from(["a", "", "🙂"])),
    Kind(Literal[-1, 2], st.sampled_from([-1, 2])),
    Kind(Literal[True], st.just(True)),
    Kind(Colour, st.sampled_from(Colour)),
    Kind(Level, st.sampled_from(Level)),
]
NAMES = ["text", "select", "from", "key", "value", "item", "größe", "x1", "N", "a__b"]


@st.composite
def kinds(draw: st.DrawFn, depth: int) -> Kind:
    shape = draw(
        st.sampled_from(["scalar", "scalar", "optional", "list", "tuple", "dict", "record", "model"] if depth else ["scalar"])
    )
    if shape == "scalar":
        return draw(st.sampled_from(SCALARS))
    if shape in ("record", "model"):
        model = draw(models(depth - 1, Record if shape == "record" else BaseModel))
        return Kind(model, rows_of(model))
    inner = draw(kinds(depth - 1))
    if shape == "optional":
        return Kind(inner.annotation | None, st.none() | inner.values)
    if shape == "list":
        return Kind(list[inner.annotation], st.lists(inner.values, max_size=3))
    if shape == "tuple":
        return Kind(tuple[inner.annotation, ...], st.lists(inner.values, max_size=3).map(tuple))
    return Kind(dict[str, inner.annotation], st.dictionaries(texts, inner.values, max_size=3))


@st.composite
def models(draw: st.DrawFn, depth: int, base: type[BaseModel]) -> type[BaseModel]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    found = {name: draw(kinds(depth)) for name in names}
    model = create_model("Drawn", __base__=base, **{name: (kind.annotation, ...) for name, kind in found.items()})
    model.drawn_from = found
    return model


def rows_of(model: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    return st.builds(model, **{name: kind.values for name, kind in model.drawn_from.items()})


@st.composite
def drawn_rows(draw: st.DrawFn) -> tuple[type[Record], list[Record]]:
    model = draw(models(3, Record))
    return model, draw(st.lists(rows_of(model), max_size=3))


def stored(value: Any) -> Any:
    """What a database should show for a value."""
    if isinstance(value, BaseModel):
        return {name: stored(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return [{"key": key, "value": stored(item)} for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [stored(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def assert_same(found: Any, wanted: Any) -> None:
    """Equal values of equal types; NaN equals NaN, and datetimes are equal in any zone."""
    if isinstance(wanted, BaseModel):
        assert type(found) is type(wanted)
        assert_same(dict(found), dict(wanted))
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, list | tuple):
        assert (type(found), len(found)) == (type(wanted), len(wanted))
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, float):
        assert isinstance(found, float)
        assert (math.isnan(found) and math.isnan(wanted)) or (found, math.copysign(1, found)) == (
            wanted,
            math.copysign(1, wanted),
        )
    elif isinstance(wanted, dt.datetime):
        assert found.utcoffset() is not None
        assert found == wanted
    else:
        assert (type(found), found) == (type(wanted), wanted)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return ObjectStore(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        yield con


def round_trip(record: type[Record], rows: list[Record], store: ObjectStore, duck: duckdb.DuckDBPyConnection) -> None:
    from datasets import Dataset, Features

    table = store.read_table(store.put_table(record.to_table(rows)).sha256)
    assert table.schema == record.arrow_schema()
    assert_same(list(record.from_table(table)), rows)
    assert_same(list(record.from_table(record.conform(table))), rows)
    assert missing_fields(record, fields_of(table.schema)) == []

    wanted = [stored(row) for row in rows]
    duck.register("rows", table)
    columns = [f'"{name}"' for name in table.schema.names]
    answer = duck.execute(f"select {', '.join(columns)} from rows").fetchall()
    assert_same([dict(zip(table.schema.names, row, strict=True)) for row in answer], wanted)

    features = Features.from_arrow_schema(table.schema)
    assert_same(Dataset(table).to_list(), wanted)
    written = Dataset.from_dict({name: [row[name] for row in wanted] for name in features}, features=features)
    assert_same(written.to_list(), wanted)
    assert_same(list(record.from_table(written.data.table)), rows)
    assert types_alone(features.arrow_schema) == types_alone(table.schema)


def types_alone(schema: pa.Schema) -> dict[str, str]:
    """Without nullability, which Hugging Face features do not have."""
    return {name: label.replace("?", "") for name, label in fields_of(schema).items()}


@pytest.mark.proof
@pytest.mark.parametrize("examples", [40, pytest.param(3000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_any_record_survives_unchanged(examples: int, store: ObjectStore, duck: duckdb.DuckDBPyConnection) -> None:
    @settings(
        max_examples=examples,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(drawn=drawn_rows())
    def holds(drawn: tuple[type[Record], list[Record]]) -> None:
        round_trip(*drawn, store, duck)

    holds()
