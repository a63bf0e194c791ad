"""Commands that follow rows through their lineage: lineage, impact."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from engine.errors import PipelineError, Problem
from engine.printable import row_count

if TYPE_CHECKING:
    from registry.lineage.walk import Direction
    from registry.query.impact import Affected


def lineage(
    context: Context,
    target: VersionArg,
    row: Annotated[
        int | None, typer.Option("--row", min=0, help="A row's number. Without it, the lineage of the version is shown.")
    ] = None,
    up: Annotated[bool, typer.Option("--up", help="Show what it was made from; this is the default.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Show what was made from it.")] = False,
    width: Annotated[
        int, typer.Option("--width", min=1, help="Maximum number of rows of one version to show below a row.")
    ] = 10,
    json: JsonOption = False,
) -> None:
    """Show what a version or a row was made from. With --down, show what was made from it. The lineage crosses pipelines and
    passes through training."""
    from engine.cli.lineage_tree import row_tree, version_tree, walk_document
    from registry.lineage.targets import Version

    with existing_registry(context).session() as session:
        version = Version(*session.resolve(target))
        if row is not None and row >= session.lineage.facts[version].rows:
            rows = session.lineage.facts[version].rows
            hint = f"its rows are numbered 0 to {rows - 1}" if rows else "it has no rows"
            raise PipelineError([Problem(f"{version} has no row {row}", hint=hint)])
        directions: list[Direction] = [*(["up"] if up or not down else []), *(["down"] if down else [])]  # type: ignore[list-item]
        walks = {way: session.lineage.walk(version, [row], way) for way in directions} if row is not None else {}
        if json:
            print_json(
                {
                    way: walk_document(session, walks[way]) if walks else session.lineage.versions(str(version), way)
                    for way in directions
                }
            )
            return
        for way in directions:
            out().print("made from:" if way == "up" else "used in:")
            out().print(row_tree(session, walks[way], way, width) if walks else version_tree(session, version, way))


def impact(
    context: Context,
    target: VersionArg,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="An SQL condition on the columns or on `row`, the row's number."),
    ] = None,
    takedown: Annotated[
        Path | None, typer.Option("--takedown", metavar="FILE", help="Add the rows to this exclusion list.")
    ] = None,
    timeout: TimeoutOption = 300,
    memory: MemoryOption = "50%",
    json: JsonOption = False,
) -> None:
    """Show everything that was made from some rows. Lists the rows, datasets and models that descend from them."""
    from engine.cli.output import grid
    from engine.running.interrupt import interrupted_at_once
    from engine.sources.exclusions import Entry, add_to_list
    from registry.lineage.targets import Version
    from registry.query.impact import chosen_rows, impact
    from registry.query.limits import limit_memory
    from registry.records.content import row_ids

    with existing_registry(context).session(memory) as session:
        limit_memory(session.memory)
        version = Version(*session.resolve(target))
        with interrupted_at_once():
            rows = chosen_rows(session, version, where, timeout, partial(end_query, timeout))
        affected = impact(session, version, rows)
        entries = []
        if takedown is not None:
            ids = row_ids(session.table(str(version)).take(rows))
            entries = [
                Entry(dataset=version.name, row_id=each, seen_at=f"{version} row {row}")
                for row, each in zip(rows.tolist(), ids, strict=True)
            ]
    new = add_to_list(takedown, entries) if takedown is not None and entries else 0
    if json:
        document = [
            {
                "name": each.version.name,
                "version": each.version.number,
                "kind": each.kind,
                "step": each.step,
                "depth": each.depth,
                "rows": each.rows.tolist(),
                "of": each.size,
                "unclear": each.unclear,
                "latest": each.latest,
                "times_seen": each.seen,
            }
            for each in affected
        ]
        print_json({"chosen": len(rows), "affected": document})
    elif not len(rows):
        out().print(f"no row of {version} matches{f': {where}' if where else ''}")
    else:
        out().print(
            f"{row_count(len(rows))} of {version} and everything that was made from {'it' if len(rows) == 1 else 'them'}:"
        )
        table = [[str(e.version), e.kind, e.step, _rows_of(e), e.size, "latest" if e.latest else ""] for e in affected]
        out().print(grid(["version", "kind", "step", "rows", "of", ""], table, counts=True))
    if takedown is not None and entries:
        known = len({entry.row_id for entry in entries}) - new
        added = f"{takedown}: {row_count(new)} added" + (f", {known} already listed" if known else "")
        say(
            f"{added}. Add `exclude: {takedown}` to the pipeline that makes {version.name}; its next run leaves these rows out."
        )


def _rows_of(affected: Affected) -> str:
    if affected.seen is not None:
        if not affected.seen:
            return "made from affected data"
        return "saw affected rows once" if affected.seen == 1 else f"saw affected rows {affected.seen:,} times"
    known = f"{len(affected.rows):,}" if len(affected.rows) else ""
    if not affected.unclear:
        return known
    return f"{known}, possibly more" if known else "unknown"
