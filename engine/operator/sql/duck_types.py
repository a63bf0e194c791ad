"""Types of fields as DuckDB has them, and back."""

from __future__ import annotations

from typing import Any

from engine.operator.sql.database import SqlError
from registry.records.described import DescribedField, DescribedType

_SCALARS = {
    "str": "VARCHAR",
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "bytes": "BLOB",
    "datetime": "TIMESTAMP WITH TIME ZONE",
    "date": "DATE",
}

_KINDS = {
    "boolean": "bool",
    "tinyint": "int",
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "utinyint": "int",
    "usmallint": "int",
    "uinteger": "int",
    # They are cast, and a value beyond 64 bits is an error of its row: sum() is a HUGEINT.
    "ubigint": "int",
    "hugeint": "int",
    "uhugeint": "int",
    "float": "float",
    "double": "float",
    "varchar": "str",
    "enum": "str",
    "blob": "bytes",
    "date": "date",
    "timestamp": "datetime",
    "timestamp_s": "datetime",
    "timestamp_ms": "datetime",
    "timestamp with time zone": "datetime",
}

_CURES = {
    "decimal": "cast(... as double)",
    "null": "cast(null as varchar)",
    "map": "cast(... as struct(...)), or map_entries(...)",
    "interval": "cast(... as varchar), or epoch(...) for seconds",
    "timestamp_ns": "cast(... as timestamp)",
    "uuid": "cast(... as varchar)",
    "bit": "cast(... as varchar)",
    "time": "cast(... as varchar)",
    "time with time zone": "cast(... as varchar)",
    "tuple": "a struct with names: {name: value}",
    "variant": "cast(... as varchar)",
    "union": "cast(... as varchar)",
    "bignum": "cast(... as double)",
}


def duck_type(about: DescribedType) -> str:
    """How DuckDB writes the type of a field."""
    if about.kind == "words":
        return "BIGINT" if all(isinstance(word, int) for word in about.words) else "VARCHAR"
    if about.kind == "list":
        assert about.item
        return f"{duck_type(about.item)}[]"
    if about.kind == "dict":
        assert about.item
        return f"STRUCT(key VARCHAR, value {duck_type(about.item)})[]"
    if about.kind == "struct":
        return "STRUCT(" + ", ".join(f"{quoted(each.name)} {duck_type(each.type)}" for each in about.fields) + ")"
    return _SCALARS[about.kind]


def field_type(found: Any) -> DescribedType:
    """The type of a field for one of DuckDB's types; every value in it may be null.

    Args:
        found: a DuckDBPyType.

    Raises:
        SqlError: fields cannot have it.
    """
    kind = str(found.id)
    if kind in ("list", "array"):
        return DescribedType(kind="list", optional=True, item=field_type(dict(found.children)["child"]))
    if kind == "struct":
        fields = tuple(DescribedField(name=name, type=field_type(inner)) for name, inner in found.children)
        return DescribedType(kind="struct", optional=True, fields=fields)
    if kind in _KINDS:
        return DescribedType.model_validate({"kind": _KINDS[kind], "optional": True})
    cure = _CURES.get(kind, "cast(... as varchar)")
    raise SqlError(f"its type is {str(found).strip(chr(34))}, which a field cannot have; write {cure}")


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"{}"'.format(name.replace('"', '""'))
