"""Commands that read the registry: sql, ls, runs, show, head."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from json import loads
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.commands.shared import (
    Context,
    JsonOption,
    MemoryOption,
    TimeoutOption,
    VersionArg,
    end_query,
    existing_registry,
    out,
    print_json,
    say,
)
from engine.cli.invocation import propose
from engine.printable import row_count
from registry.counted import counted

if TYPE_CHECKING:
    from registry import Registry

TABLE_ROWS = 1000
"""How many rows `engine sql` shows as a table; the other formats print all rows."""

Batches = Iterator[list[tuple[Any, ...]]]


class Format(StrEnum):
    """The output formats of `engine sql`."""

    table = "table"
    csv = "csv"
    json = "json"


def sql(
    context: Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT statement; `-` reads it from stdin.")],
    format: Annotated[Format, typer.Option("--format", help="The output format.")] = Format.table,
    json: JsonOption = False,
    timeout: TimeoutOption = 300,
    memory: MemoryOption = "50%",
) -> None:
    """Query the registry with SQL (read-only). Views: datasets, versions, runs, step_runs, lineage, row_lineage, llm_calls,
    rejects, metrics. Table functions: upstream('NAME@V'), downstream('NAME@V'), trace('NAME@V', row). Each dataset is a table
    of its name. The table format shows the first 1,000 rows; csv and json print all of them."""
    from engine.running.interrupt import interrupted_at_once
    from registry.query.limits import limit_memory

    text = sys.stdin.read() if query == "-" else query
    registry = existing_registry(context)
    with registry.session(memory) as session:
        limit_memory(session.memory)
        last_resort = partial(end_query, timeout)
        with interrupted_at_once(), session.stream(text, timeout=timeout, last_resort=last_resort) as (columns, batches):
            first: list[tuple[Any, ...]] = next(batches, [])  # a query that fails here prints nothing
            _print_rows(columns, chain([first], batches), Format.json if json else format)
        for each in session.left_out():
            say(f"warning: left out: {each}; `{propose('fsck')}` shows how to repair it")


def ls(context: Context, json: JsonOption = False) -> None:
    """List datasets, models, calibrations and reports."""
    _print_listing(existing_registry(context).listing("datasets"), json, empty="The registry is empty.")


def runs(
    context: Context,
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN_ID]", help="Show the steps of this run.")] = None,
    json: JsonOption = False,
) -> None:
    """List runs, newest first. With RUN_ID, draw its steps on a time axis, with what each of them waited for."""
    registry = existing_registry(context)
    registry.catalog.mark_dead_runs()
    if run_id is not None:
        _print_run(registry, run_id, json)
        return
    newest_first = sorted(registry.listing("runs"), key=itemgetter("started_at"), reverse=True)
    _print_listing(newest_first, json, empty="There are no runs yet.")


def show(context: Context, target: VersionArg, json: JsonOption = False) -> None:
    """Show the details of a version. Prints its type and fields, its inputs, the step and run that made it, and its metrics."""
    from engine.cli.output import grid
    from engine.cli.run_view import print_report
    from registry import Report

    registry = existing_registry(context)
    with registry.session() as session:
        name, version = session.resolve(target)
        versions = session.ask("select version from versions where name = ? order by 1", [name]).rows
        asked = "select file, params from runs join versions using (run_id) where name = ? and version = ?"
        run = session.ask(asked, [name, version]).rows
        manifest = session.manifest(name, version)
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    console = out()
    console.print(
        f"{manifest.ref}  {manifest.kind} of {manifest.type}, {row_count(manifest.rows)}, {counted(manifest.bytes, 'byte')}"
    )
    made = f"read as {manifest.step!r}" if manifest.op == "source" else f"made by step {manifest.step!r} ({manifest.op})"
    console.print(f"{made} in run {manifest.run_id}, {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    if manifest.files:
        console.print(f"read from {', '.join(manifest.files)}", soft_wrap=True)
    if run:
        [(pipeline_file, params)] = run
        given = ", ".join(f"{name}={_csv_cell(value)}" for name, value in loads(params or "{}").items())
        console.print(f"pipeline {pipeline_file or manifest.pipeline}{f', with {given}' if given else ''}", soft_wrap=True)
    console.print(f"content id {manifest.content_id}")
    console.print(f"step key {manifest.step_key}")
    for title, refs in (("from", manifest.inputs), ("by model", manifest.models)):
        for ref in refs:
            console.print(f"{title} {ref}")
    console.print(f"versions {', '.join(str(number) for (number,) in versions)}")
    console.print()
    console.print(grid(["field", "type"], manifest.fields.items()))
    if manifest.metrics:
        console.print()
        console.print(grid(["metric", "slice", "value"], [[m.metric, m.slice, m.value] for m in manifest.metrics]))
    if manifest.kind == Report.registry_kind:
        console.print()
        print_report(next(registry.records(str(manifest.ref), Report)), console)


def head(
    context: Context,
    target: VersionArg,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="Number of rows.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show the first rows of a version."""
    from engine.cli.output import cell_text

    with existing_registry(context).session() as session:
        name, version = session.resolve(target)
        table = session.table(f"{name}@{version}")
    shown = min(rows, table.num_rows)
    found = table.slice(0, shown).to_pylist()
    if json:
        print_json(found)
        return
    console = out()
    console.print(f"{name}@{version}: {shown:,} of {counted(table.num_rows, 'row')}")
    for row in found:
        console.print(f"\nrow {row.pop('row')}")
        for key, value in row.items():
            if value is not None:
                console.print(f"  {key}: {cell_text(value, 400)}", soft_wrap=True)


def _print_run(registry: Registry, run_id: str, json: bool) -> None:
    from engine.cli.timeline import print_timeline, run_timeline

    with registry.session() as session:
        run = run_timeline(session, run_id)
    if json:
        print_json(run)
    else:
        print_timeline(run, out())


def _print_listing(rows: list[dict[str, Any]], json: bool, empty: str) -> None:
    from engine.cli.output import grid, records
    from registry import QueryResult

    answer = QueryResult([*rows[0]] if rows else [], [tuple(row.values()) for row in rows])
    if json:
        print_json(records(answer))
    elif not answer.rows:
        out().print(empty)
    else:
        out().print(grid(answer.columns, answer.rows))


def _print_rows(columns: list[str], batches: Batches, format: Format) -> None:
    """Print rows as they arrive: only the table format, whose size is limited, holds them in memory."""
    from engine.cli.output import grid, records
    from engine.plain_values import as_json
    from registry import QueryResult

    if format is Format.json:
        separator = "["
        for record in chain.from_iterable(records(QueryResult(columns, batch)) for batch in batches):
            print(separator, as_json(record).replace("\n", "\n  "), sep="\n  ", end="")
            separator = ","
        print("[]" if separator == "[" else "\n]")
    elif format is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for batch in batches:
            writer.writerows([_csv_cell(value) for value in row] for row in batch)
    else:
        rows = list(islice(chain.from_iterable(batches), TABLE_ROWS + 1))
        out().print(grid(columns, rows[:TABLE_ROWS]))
        more = f"the first {row_count(TABLE_ROWS)}; --format csv or json prints all of them"
        out().print(f"({more if len(rows) > TABLE_ROWS else row_count(len(rows))})")


def _csv_cell(value: Any) -> Any:
    from engine.plain_values import json_line, plain
    from engine.printable import harmless

    text = json_line(value) if isinstance(value, list | dict) else value if isinstance(value, float) else plain(value)
    return harmless(text) if isinstance(text, str) and sys.stdout.isatty() else text
