"""Typed rows: a `Record` is a frozen pydantic model that maps to one Arrow schema.

Versions outlive the classes that they were written with. A record type may gain optional fields (also in the records
inside it): older versions are read with the defaults. When a version cannot be read as a type, the error lists the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import FrozenInstanceError
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from registry.records.columns import columns_of

if TYPE_CHECKING:
    import pyarrow as pa


class Record(BaseModel):
    """Base class of every row that flows between operators. Instances are frozen; unknown fields are errors.

    A number given for a text field becomes text (`"answer": 72` in a JSON file); nothing else is converted to text.
    A datetime is stored in UTC; one without a zone is assumed to be in UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)

    registry_kind: ClassVar[str] = "dataset"
    """The kind of a version of such rows: `dataset`, `model`, `calibration` or `report`."""

    @classmethod
    def type_name(cls) -> str:
        """The name of the type in YAML: the class name."""
        return cls.__name__

    @classmethod
    def arrow_schema(cls) -> pa.Schema:
        """The Arrow schema of these rows; raises UnsupportedTypeError for a field that cannot be stored."""
        import pyarrow as pa

        return pa.schema(list(columns_of(cls).arrow))

    @classmethod
    def to_table(cls, rows: Iterable[Self]) -> pa.Table:
        """Rows as one Arrow table, in order."""
        import pyarrow as pa

        from registry.records.arrays import array_of

        fields = [row.__dict__ for row in rows]
        arrays = [array_of([*map(itemgetter(name), fields)], column) for name, column in columns_of(cls).parts.items()]
        return pa.Table.from_arrays(arrays, schema=cls.arrow_schema())

    @classmethod
    def conform(cls, table: pa.Table) -> pa.Table:
        """The table with exactly this record's columns; fields that an older version lacks get their defaults."""
        import pyarrow as pa

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
            for convert in (column.normalize, column.encode):
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

    if not TYPE_CHECKING:  # a type checker would take any name for a field that can be set

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise self._frozen(name) from error

        def __delattr__(self, name: str) -> None:
            try:
                super().__delattr__(name)
            except ValidationError as error:
                raise self._frozen(name) from error

    def _frozen(self, name: str) -> FrozenInstanceError:
        frozen = f"a row of type {self.type_name()} cannot be changed"
        if name not in type(self).model_fields:
            return FrozenInstanceError(f"{frozen}, and its type has no field {name!r}")
        return FrozenInstanceError(f"{frozen}; make a copy: `row.model_copy(update={{{name!r}: ...}})`")

    @model_validator(mode="after")
    def _normalize(self) -> Self:
        if normalize := columns_of(type(self)).normalize:
            normalize(self)
        return self
