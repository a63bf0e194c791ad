"""Recognises the format of a source's rows by its first ones.

* Rows that are valid as they are have the type's own format, and it always wins, unless all rows also fit a format that is
  stricter (`over_own`).
* Otherwise it is the format that most of the first rows fit. If two fit as many, that is an error: `format:` has to say which.
* If none fits, the rows are read in the type's own format, so that errors name what they lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import EngineError, did_you_mean
from engine.fingerprint.code import code_of_function
from engine.operator.row_formats import OWN, RowFormat, readable
from engine.sources.coercion import UnfitError, coerced
from engine.sources.files.heads import HEAD_ROWS, head
from engine.sources.files.locations import SourceFile, find_files
from engine.sources.row import Row
from engine.spec.pipeline_spec import DatasetSpec
from registry import Record


def named_format(spec: DatasetSpec, record: type[Record]) -> RowFormat | None:
    """The format that `format:` names; None for the type's own one, or if it names none.

    Raises:
        EngineError: the type has no such format.
    """
    if spec.format in (None, OWN):
        return None
    known = readable(record)
    if spec.type is None:
        raise EngineError(f"format: a dataset needs a type to have a format; add the type that rows of {spec.format!r} become")
    if spec.format not in known:
        close = did_you_mean(str(spec.format), known, " ").strip()
        has = f"it has {', '.join([OWN, *known])}" + (f"; {close}" if close else "")
        raise EngineError(f"{record.type_name()} has no format {spec.format!r}: {has}")
    return known[spec.format]


def format_of_files(spec: DatasetSpec, record: type[Record], base_dir: Path) -> RowFormat | None:
    """The format of a source that is read from files; None for the type's own one.

    Raises:
        EngineError: a file cannot be read, the type has no such format, or several fit.
    """
    if spec.path is None or spec.format or not readable(record):
        return named_format(spec, record)
    return format_of_rows(first_rows(find_files(spec.path, base_dir), spec, record), spec, record)


def first_rows(files: list[SourceFile], spec: DatasetSpec, record: type[Record]) -> Iterable[Row]:
    """The first rows of files, with every column that a format of the type may need."""
    return head(files, columns(record, spec, *readable(record).values()), min(HEAD_ROWS, spec.limit or HEAD_ROWS))


def columns(record: type[Record], spec: DatasetSpec, *formats: RowFormat) -> frozenset[str]:
    """The columns of a source that rows need in the type's own format and in others."""
    return frozenset(record.model_fields).union(spec.rename, *(each.fields for each in formats))


def possible_fields(record: type[Record]) -> frozenset[str]:
    """The fields that rows have in the type's own format or in another one."""
    return frozenset(record.model_fields).union(*(each.fields for each in readable(record).values()))


def format_of_rows(rows: Iterable[Row], spec: DatasetSpec, record: type[Record]) -> RowFormat | None:
    """The format of rows; None for the type's own one.

    Raises:
        EngineError: several formats fit.
    """
    known = readable(record)
    if spec.format or not known:
        return named_format(spec, record)
    seen = [{spec.rename.get(key, key): value for key, value in row.fields.items()} for row in rows if row.fields]
    if any(_is_own(record, {**fields, **_absent(spec.defaults, fields)}) for fields in seen):
        stricter = [each for each in known.values() if each.over_own and all(map(_fits(each), seen))]
        return stricter[0] if len(stricter) == 1 else None
    count = {name: sum(map(_fits(each), seen)) for name, each in known.items()}
    best = [name for name, rows_that_fit in count.items() if rows_that_fit and rows_that_fit == max(count.values())]
    if len(best) > 1:
        listed = "".join(f"\n    format: {name}    # {known[name].looks}" for name in best)
        raise EngineError(f"its rows fit {len(best)} formats of {record.type_name()}; say which one is meant:{listed}")
    return known[best[0]] if best else None


def _fits(format_: RowFormat) -> Any:
    return format_.fits or (lambda row: False)


def _absent(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in defaults.items() if fields.get(name) is None}


def _is_own(record: type[Record], fields: dict[str, Any]) -> bool:
    try:
        record.model_validate(coerced(record, fields, lambda _: None))
    except (UnfitError, ValidationError):
        return False
    return True


def identity_of(format_: RowFormat | None) -> dict[str, Any]:
    """The part of a source's identity that comes from its format: its name and the code that reads it."""
    if format_ is None:
        return {}
    # A row that does not fit is refused, so that code counts, too.
    parts = [part for part in (format_.fits, format_.read) if part]
    code = [code_of_function(part, f"format {format_.name}").document() for part in parts]
    return {"format": {"name": format_.name, "code": code}}


def how_to_fit(record: type[Record]) -> str:
    """The formats that the type's rows can have, for errors of rows that have none of them; empty if it has only its own."""
    known = readable(record)
    if not known:
        return ""
    own = ", ".join(name for name, info in record.model_fields.items() if info.is_required())
    lines = [f"{OWN}: {own}", *(f"{name}: {each.looks}" for name, each in known.items())]
    return f"formats of {record.type_name()} that are recognised:" + "".join(f"\n    {line}" for line in lines)
