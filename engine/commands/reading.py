"""Commands on the registry: sql, ls, runs, show, head, rebuild."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from engine.commands.shared import JsonOption, existing_registry, out, print_json, row_count


class Format(StrEnum):
    """How `engine sql` prints rows."""

    table = "table"
    csv = "csv"
    json = "json"


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; `-` reads it from stdin.")],
    format: Annotated[Format, typer.Option("--format", help="How to print the rows.")] = Format.table,
    json: JsonOption = False,
) -> None:
    """Query the registry (read-only). Views: datasets, versions, runs, step_runs, lineage, row_lineage, llm_calls,
    rejects, metrics; table functions: upstream('N@V'), downstream('N@V'), trace('N@V', row); each dataset by its name."""
    from engine.output import grid, records

    text = sys.stdin.read() if query == "-" else query
    with existing_registry().session() as session:
        answer = session.ask(text)
    if json or format is Format.json:
        print_json(records(answer))
    elif format is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows([_csv_cell(value) for value in row] for row in answer.rows)
    else:
        out().print(grid(answer.columns, answer.rows))
        out().print(f"({row_count(len(answer.rows))})")


def ls(json: JsonOption = False) -> None:
    """List datasets, models and calibrations with their latest versions."""
    _print_query(
        "select name, kind, type, latest_version, rows, updated_at from datasets", json, empty="The registry is empty."
    )


def runs(json: JsonOption = False) -> None:
    """List runs, the newest first."""
    registry = existing_registry()
    registry.catalog.mark_dead_runs()
    _print_query("select * from runs order by started_at desc", json, empty="Nothing ran yet.")


def show(target: Annotated[str, typer.Argument(metavar="NAME[@V]")], json: JsonOption = False) -> None:
    """Show a version: its type and fields, what it was made from, by which step and run, and its metrics."""
    from engine.output import grid

    registry = existing_registry()
    with registry.session() as session:
        name, version = session.resolve(target)
        versions = session.ask("select version from versions where name = ? order by 1", [name]).rows
    manifest = registry.manifest(name, version)
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    console = out()
    console.print(f"{manifest.ref}  {manifest.kind} of {manifest.type}, {row_count(manifest.rows)}, {manifest.bytes:,} bytes")
    made = f"read as {manifest.step!r}" if manifest.op == "source" else f"made by step {manifest.step!r} ({manifest.op})"
    console.print(f"{made} in run {manifest.run_id}, {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    console.print(f"content {manifest.content_id}")
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


def head(
    target: Annotated[str, typer.Argument(metavar="NAME[@V]")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, help="How many.")] = 5,
    json: JsonOption = False,
) -> None:
    """Show the first rows of a version."""
    from engine.output import cell_text

    with existing_registry().session() as session:
        name, version = session.resolve(target)
        table = session.table(f"{name}@{version}")
    found = table.slice(0, rows).to_pylist()
    if json:
        print_json(found)
        return
    console = out()
    console.print(f"{name}@{version}: {min(rows, table.num_rows)} of {table.num_rows} rows")
    for row in found:
        console.print(f"\nrow {row.pop('row')}")
        for key, value in row.items():
            if value is not None:
                console.print(f"  {key}: {cell_text(value, 400)}", soft_wrap=True)


def rebuild() -> None:
    """Make registry.duckdb again from the manifests and run journals."""
    count = existing_registry().catalog.rebuild()
    out().print(f"rebuilt from {count} manifests")


def _print_query(query: str, json: bool, empty: str) -> None:
    from engine.output import grid, records

    with existing_registry().session() as session:
        answer = session.ask(query)
    if json:
        print_json(records(answer))
    elif not answer.rows:
        out().print(empty)
    else:
        out().print(grid(answer.columns, answer.rows))


def _csv_cell(value: Any) -> Any:
    from engine.output import cell_text, plain

    return cell_text(value, None) if isinstance(value, list | dict) else plain(value)
