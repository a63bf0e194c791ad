"""Keep the rows for which an SQL expression is true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.operator import Batch, Context, InputTypes, Params, Record, SqlError, Wrong, bind_expressions, evaluate, operator


class FilterParams(Params):
    """Parameters of filter."""

    where: str

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """An expression that DuckDB does not understand, or that is not true or false."""
        found = bind_expressions(inputs["rows"], {"where": self.where})["where"]
        if isinstance(found, SqlError):
            yield Wrong(f"where: {found}", at=("where",))
        elif found.kind != "bool":
            yield Wrong(f"where: the expression is {found}, but must be true or false (bool)", at=("where",))


@operator(outputs={"kept": "rows", "dropped": "rows"})
def filter(rows: Batch[Record], ctx: Context, params: FilterParams) -> dict[str, Any]:
    """Keep the rows for which an SQL expression is true, such as `length(answer) > 20 and score is not null`.

    The other rows go to `dropped`, including those for which the expression is null: a comparison with null is null. Both
    outputs have the type of the input. A row for which the expression fails is rejected with the reason, for example where
    `cast(answer as int)` meets a text; `try_cast` gives null instead. All parts of an expression are computed for each row,
    even behind an `and`; only `case when` computes what it needs.

    The SQL is DuckDB's. It sees the fields of one row, and nothing else: no other rows (see `sql`), files, settings, time or
    random numbers (see `sample`). A field whose name is a word of SQL needs double quotes; text takes single quotes.

    Metrics: `rows` counts kept and dropped rows.

    Args:
        where: the expression.
    """
    import pyarrow.compute as pc

    found = evaluate(rows, {"where": params.where})
    for number, reason in found.failed.items():
        ctx.reject(reason, row=number)
    keep = pc.fill_null(found.columns.column("where"), False)
    kept, dropped = found.rows.filter(keep), found.rows.filter(pc.invert(keep))
    ctx.count("rows", "kept", by=kept.num_rows)
    ctx.count("rows", "dropped", by=dropped.num_rows)
    return {"kept": kept, "dropped": dropped}
