"""Set, rename and drop fields of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.operator import (
    Batch,
    Context,
    Described,
    DescribedField,
    DescribedType,
    InputTypes,
    OutputTypes,
    Params,
    Record,
    SqlError,
    Wrong,
    bind_expressions,
    described,
    did_you_mean,
    evaluate,
    extended,
    field_name_problem,
    operator,
)


class MapParams(Params):
    """Parameters of map."""

    set: dict[str, str] = {}
    rename: dict[str, str] = {}
    drop: list[str] = []

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Expressions that DuckDB does not understand, and names that do not exist, exist twice, or are reserved."""
        if not (self.set or self.rename or self.drop):
            yield Wrong("nothing to do: give set, rename or drop")
        before = [field.name for field in described(inputs["rows"]).fields]
        for name, found in bind_expressions(inputs["rows"], self.set).items():
            if isinstance(found, SqlError):
                yield Wrong(f"set: {name}: {found}", at=("set", name))
            elif problem := field_name_problem(name, before):
                yield Wrong(f"set: {name}: {problem}", at=("set", name))
        fields = [*before, *(name for name in self.set if name not in before)]
        for old, new in self.rename.items():
            others = [self.rename.get(each, each) for each in fields if each != old]
            if old not in fields:
                yield Wrong(f"rename: there is no field {old!r}; {did_you_mean(old, fields)}", at=("rename", old))
            elif new in others:
                yield Wrong(
                    f"rename: there is a field {new!r} already; to replace it, write set: {{{new}: {old}}}", at=("rename", old)
                )
            elif problem := field_name_problem(new, others):
                yield Wrong(f"rename: {new}: {problem}", at=("rename", old))
        fields = [self.rename.get(each, each) for each in fields]
        for place, name in enumerate(self.drop):
            if name not in fields:
                yield Wrong(f"drop: there is no field {name!r}; {did_you_mean(name, fields)}", at=("drop", place))
        if not {*fields} - {*self.drop}:
            yield Wrong("drop: no field is left", at=("drop",))

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """The input's type with these changes."""
        made = described(extended(inputs["rows"], self.new_fields(inputs["rows"])))
        renamed = (each.model_copy(update={"name": self.rename.get(each.name, each.name)}) for each in made.fields)
        fields = tuple(each for each in renamed if each.name not in self.drop)
        if fields == described(inputs["rows"]).fields:
            return {"out": inputs["rows"]}
        return {"out": Described(name=made.name, fields=fields).record()}

    def new_fields(self, record: type[Record]) -> list[DescribedField]:
        """The fields that are set."""
        about = described(record)
        return [
            DescribedField(name=name, type=found, description=old.description if (old := about.field(name)) else "")
            for name, found in _types(bind_expressions(record, self.set)).items()
        ]


@operator(outputs=Record)
def map(rows: Batch[Record], ctx: Context, params: MapParams) -> Any:
    """Set fields to SQL expressions, rename fields, and drop fields, in this order.

    Every expression in `set` sees the original row, so two fields can be swapped. It replaces the field of that name in
    place, or adds one at the end. A field that is passed through keeps its type. The value of any other expression may be
    null, unless its form proves that it is not: `coalesce(note, '')` is never null, and `lower(question)` is null only where
    `question` is. `rename` and `drop` then see the fields that `set` made, and `drop` sees the new names.

    A row for which an expression fails is rejected with the reason. For the SQL, see `filter`.

    Args:
        set: the expression of each field.
        rename: the new name of each field.
        drop: fields to leave out.
    """
    import pyarrow as pa

    table: Any = rows
    given = [name for name in table.column_names if name != "_row"]
    columns: dict[str, Any] = {name: table.column(name) for name in table.column_names}
    if params.set:
        found = evaluate(rows, params.set)
        for number, reason in found.failed.items():
            ctx.reject(reason, row=number)
        columns = {name: found.rows.column(name) for name in table.column_names}
        columns |= {name: found.columns.column(name) for name in params.set}
    made = {params.rename.get(name, name): columns[name] for name in dict.fromkeys([*given, *params.set])}
    kept = {name: column for name, column in made.items() if name not in params.drop}
    return pa.table({"_row": columns["_row"], **kept})


def _types(found: Mapping[str, DescribedType | SqlError]) -> dict[str, DescribedType]:
    return {name: each for name, each in found.items() if isinstance(each, DescribedType)}
