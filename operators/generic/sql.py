"""Make rows with one SQL query over whole inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engine.operator import (
    Context,
    Described,
    InputTypes,
    OutputTypes,
    Params,
    Record,
    RowRef,
    SqlError,
    Table,
    Wrong,
    bind_query,
    derived,
    lineage_gap,
    operator,
    run_query,
)


class SqlParams(Params):
    """Parameters of sql."""

    query: str

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """A query that DuckDB does not understand, or whose columns cannot be fields."""
        try:
            bind_query(self.query, inputs)
        except SqlError as error:
            yield Wrong(f"query: {error}", at=("query",))

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """What the query selects."""
        found = bind_query(self.query, inputs).fields
        return {"out": Described(name="Row", fields=found).record()}

    def notes(self) -> list[str]:
        """Why the lineage of its rows is not known, if it is not."""
        gap = lineage_gap(self.query)
        return [f"sql: the lineage of its rows is unknown (opaque), because of the query: {gap}"] if gap else []


@operator(outputs=Record)
def sql(tables: Mapping[str, Table[Record]], ctx: Context, params: SqlParams) -> Iterator[Record]:
    """Make rows with one SELECT over the inputs, which are its tables under the names that the pipeline gives them.

        op: sql
        in: {q: questions, a: answers}
        with: {query: "select q.*, count(*) as answers from q join a using (id) group by all"}

    `check` finds wrong names and types, and the type of the rows follows from the query: give every column a name. The SQL is
    DuckDB's. It sees the inputs and nothing else: no files, settings, time or random numbers. `cast` values whose type a field
    cannot have, such as 0.5 (a DECIMAL): `cast(0.5 as double)`.

    Every row knows the rows that it was made from. A row of a join comes from all joined rows, a row of a group or of DISTINCT
    from all rows of the group, any other from the row that it selects. This works for joins, filters, groups, windows, orders,
    limits, UNION, subqueries after FROM, `with`, `unnest`, and samples with a seed. Where rows cannot be followed (subqueries
    in expressions, EXCEPT, semi joins, PIVOT, recursion), their lineage is unknown, and `engine plan` says so.

    Without ORDER BY, rows are in the order of the rows that they come from; ties are, too. A value that cannot be computed
    fails the step; `try_cast` gives null instead. The query has half of the machine's memory, and an hour.

    Args:
        query: one SELECT.
    """
    bound = bind_query(params.query, {name: table.record for name, table in tables.items()})
    found = run_query(bound, {name: table.arrow for name, table in tables.items()})
    record = Described(name="Row", fields=bound.fields).record()
    if found.sources is None:
        ctx.note(f"the lineage of its rows is unknown (opaque): {bound.gap}")
        yield from record.from_table(found.table)
        return
    for row, sources in zip(record.from_table(found.table), found.sources, strict=True):
        yield derived(row, *(RowRef(*source) for source in sources))
