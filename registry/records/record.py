"""Typed rows: a `Record` is a frozen pydantic model that maps to one Arrow schema.

Versions outlive the classes that they were written with. A record type may gain optional fields (also in the records
inside it): older versions are read with the defaults. What an older version cannot be read as is said field by field.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from registry.errors import IncompatibleError
from registry.records.columns import Column, columns_of


class Record(BaseModel):
    """Base class of every row that flows between operators. Instances are frozen; unknown fields are errors.

    A number given for a text field becomes text (`"answer": 72` in a JSON file); nothing else is converted to text.
    A datetime is kept in UTC; one without a zone is taken to be in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)

    registry_kind: ClassVar[str] = "dataset"
    """What a version of such rows is called in the registry: `dataset`, `model`, `calibration` or `report`."""

    @classmethod
    def type_name(cls) -> str:
        """The name users write in YAML: the class name."""
        return cls.__name__

    @classmethod
    def arrow_schema(cls) -> pa.Schema:
        """The Arrow schema of these rows; raises UnsupportedTypeError for a field that cannot be stored."""
        return pa.schema(list(columns_of(cls).arrow))

    @classmethod
    def to_table(cls, rows: Iterable[Self]) -> pa.Table:
        """Rows as one Arrow table, in order."""
        rows = list(rows)
        arrays = []
        for name, column in columns_of(cls).parts.items():
            values = [row.__dict__[name] for row in rows]
            arrays.append(pa.array(map(column.encode, values) if column.encode else values, column.arrow))
        return pa.Table.from_arrays(arrays, schema=cls.arrow_schema())

    @classmethod
    def conform(cls, table: pa.Table) -> pa.Table:
        """The table with exactly this record's columns; what an older version lacks is filled with the defaults."""
        schema = cls.arrow_schema()
        given = {field.name: field.type for field in table.schema}
        if any(given.get(field.name, field.type) != field.type for field in schema):
            return cls.to_table(cls.from_table(table))  # a record inside this one is of an older version
        arrays = []
        for field in schema:
            if field.name in given:
                arrays.append(table.column(field.name))
                continue
            column = columns_of(cls).parts[field.name]
            value = cls.model_fields[field.name].get_default(call_default_factory=True)
            for convert in (column.settle, column.encode):
                value = convert(value) if convert else value
            arrays.append(pa.repeat(pa.scalar(value, field.type), table.num_rows))
        return pa.Table.from_arrays(arrays, schema=schema)

    @classmethod
    def from_table(cls, table: pa.Table | pa.RecordBatch) -> Iterator[Self]:
        """Validated rows of a table that has at least this record's columns; others are ignored.

        Raises pydantic.ValidationError on the first row that does not fit.
        """
        row_of = columns_of(cls)
        assert row_of.decode
        present = [name for name in row_of.parts if name in table.schema.names]
        for row in table.select(present).to_pylist():
            # Rows are stored under the fields' own names, and enums by value, whatever JSON files call them.
            yield cls.model_validate(row_of.decode(row), strict=False, by_name=True, by_alias=False)

    @model_validator(mode="after")
    def _settle(self) -> Self:
        if settle := columns_of(type(self)).settle:
            settle(self)
        return self


class StoredFile(Record):
    """A file kept in the object store, as an artifact's row names it."""

    name: str
    sha256: str
    bytes: int


class Artifact(Record):
    """A record that stands for files: a version of artifacts has one row and the files it names."""

    files: list[StoredFile] = []


class Model(Artifact):
    """A trained model: a LoRA adapter on `base_model`, or full weights.

    Args:
        base_model: what the training started from, as it stood in the pipeline.
        format: `adapter` (peft) or `full` (a Hugging Face model folder).
        files: the model's folder, file by file.
        config: the resolved training settings, as JSON.
    """

    registry_kind: ClassVar[str] = "model"

    base_model: str
    format: typing.Literal["adapter", "full"]
    config: str = "{}"


class Report(Artifact):
    """What a run found, for people to read.

    Args:
        title: a line.
        text: Markdown; pictures are named as they are in `files`: `![accuracy](accuracy.png)`.
        files: pictures and tables.
    """

    registry_kind: ClassVar[str] = "report"

    title: str
    text: str


_NAMES = {
    pa.large_string(): "str",
    pa.int64(): "int",
    pa.float64(): "float",
    pa.bool_(): "bool",
    pa.large_binary(): "bytes",
    pa.timestamp("us", tz="UTC"): "datetime",
    pa.date32(): "date",
}


def type_label(arrow: pa.DataType, nullable: bool = False) -> str:
    """An Arrow type in the words of a record's author: `list[{role: str, content: str}]`, `str?`."""
    if pa.types.is_list(arrow):
        label = f"list[{type_label(arrow.value_type, arrow.value_field.nullable)}]"
    elif pa.types.is_struct(arrow):
        label = "{" + ", ".join(f"{f.name}: {type_label(f.type, f.nullable)}" for f in arrow) + "}"
    else:
        label = _NAMES.get(arrow, str(arrow))
    return label + ("?" if nullable else "")


def fields_of(schema: pa.Schema) -> dict[str, str]:
    """Column names and type labels, in order: the form in which a manifest and a step key hold a schema."""
    return {field.name: type_label(field.type, field.nullable) for field in schema}


def missing_fields(needed: type[Record], given: Mapping[str, str]) -> list[str]:
    """Why rows with these fields (name -> type label) cannot be read as `needed`; empty when they can.

    Typing is structural: more fields than needed are fine, an optional or defaulted field may be absent.
    """
    return list(_lacking(columns_of(needed), given, ""))


def ensure_readable(needed: type[Record], given: Mapping[str, str], what: str) -> None:
    """Raise IncompatibleError, with all reasons, unless rows with these fields can be read as `needed`.

    Args:
        what: the rows, for the message: `demo/rows@1 (SFTExample)`.
    """
    if problems := missing_fields(needed, given):
        raise IncompatibleError(f"{what} cannot be read as {needed.type_name()}: {'; '.join(problems)}")


def _lacking(needed: Column, given: Mapping[str, str], path: str) -> Iterator[str]:
    for name, column in needed.parts.items():
        if name in given:
            yield from _mismatches(column, given[name], f"{path}{name}")
        elif name not in needed.optional:
            yield f"field {f'{path}{name}'!r} ({type_label(column.arrow, column.nullable)}) is missing"


def _mismatches(needed: Column, given: str, path: str) -> Iterator[str]:
    bare = given.removesuffix("?")
    if bare == given or needed.nullable:
        if pa.types.is_struct(needed.arrow) and bare.startswith("{"):
            yield from _lacking(needed, _members(bare), f"{path}.")
            return
        if pa.types.is_list(needed.arrow) and bare.startswith("list["):
            yield from _mismatches(needed.parts["[]"], bare.removeprefix("list[")[:-1], f"{path}[]")
            return
        if bare == type_label(needed.arrow):
            return
    yield f"field {path!r} is {given} where {type_label(needed.arrow, needed.nullable)} is needed"


def _members(label: str) -> dict[str, str]:
    """`{role: str, tags: list[{...}]}` taken apart, one level deep."""
    members, depth, start = {}, 0, 1
    for place, letter in enumerate(label):
        depth += (letter in "{[") - (letter in "}]")
        if (letter == "," and depth == 1) or (depth == 0 and place > start):
            name, _, inner = label[start:place].partition(": ")
            members[name] = inner
            start = place + 2
    return members
