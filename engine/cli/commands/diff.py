"""The command `diff`: the differences between two versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.commands.shared import Context, JsonOption, existing_registry, out, print_json
from engine.printable import row_count

if TYPE_CHECKING:
    from registry.query.diff import Change, Diff, RowDiff, RowSample, Side
    from registry.records.field_diff import FieldDiff

WIDTH = 240
"""Characters of a value that are shown, at most."""
BEFORE = 60
"""Characters that are shown before the first difference."""


def diff(
    context: Context,
    old: Annotated[str, typer.Argument(metavar="A", help="NAME or NAME@V.")],
    new: Annotated[
        str | None, typer.Argument(metavar="B", help="NAME or NAME@V. Without it, A is compared with its previous version.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="FIELD",
            help="Match rows by this field, or by their number: `row`. Repeat it for a key of several fields.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="Number of changed, removed and added rows to show.")] = 3,
    json: JsonOption = False,
) -> None:
    """Compare two versions. Compares their fields, and their rows by content or by key."""
    from registry.query.diff import compare

    with existing_registry(context).session() as session:
        found = compare(session, old, new, key=key or (), samples=rows)
    if json:
        print_json(asdict(found))
        return
    console = out()
    for line in _lines(found):
        console.print(line, soft_wrap=isinstance(line, str))


def _lines(found: Diff) -> Iterator[Any]:
    yield _side("-", found.old)
    yield _side("+", found.new)
    yield ""
    if found.identical:
        yield f"identical: both have the content id {found.new.content_id}"
        return
    yield from _fields(found.fields, found.old, found.new)
    yield from _files(found)
    if found.rows is None:
        counts = f"{found.old.rows:,} and {found.new.rows:,}"
        yield f"rows: {counts}; not compared, because the versions share no field of the same type"
    else:
        yield from _rows(found.rows, found)


def _side(sign: str, side: Side) -> str:
    made = f"read as {side.step!r}" if side.op == "source" else f"made by step {side.step!r} ({side.op})"
    return (
        f"{sign} {side}  {side.kind} of {side.type}, {row_count(side.rows)}, {made} in run {side.run_id}, "
        f"{side.created_at:%Y-%m-%d %H:%M:%S} UTC"
    )


def _fields(fields: FieldDiff, old: Side, new: Side) -> Iterator[Any]:
    from engine.cli.output import grid

    if fields.relation == "same":
        yield f"fields: the same{', in another order' if fields.reordered else ''}"
        return
    names = [*fields.removed, *fields.changed, *fields.added]
    was = fields.removed | {name: labels[0] for name, labels in fields.changed.items()}
    now = fields.added | {name: labels[1] for name, labels in fields.changed.items()}
    yield grid(["field", str(old), str(new)], [[name, was.get(name, "-"), now.get(name, "-")] for name in names])
    if fields.relation == "compatible":
        yield f"fields: compatible: every step that reads {old} can read {new}"
    else:
        yield "fields: incompatible"
        yield from (f"  {reason}" for reason in fields.reasons)


def _files(found: Diff) -> Iterator[str]:
    if files := found.files:
        counts = {
            "unchanged": files.unchanged,
            "removed": len(files.removed),
            "added": len(files.added),
            "changed": len(files.changed),
        }
        yield f"files: {_counts(counts)}"
        for sign, names in (("-", files.removed), ("+", files.added), ("~", files.changed)):
            yield from (f"  {sign} {name}" for name in names)


def _rows(rows: RowDiff, found: Diff) -> Iterator[str]:
    counts = {"unchanged": rows.unchanged, "removed": rows.removed, "added": rows.added, "changed": rows.changed}
    yield f"rows by {', '.join(rows.key) or 'content'}: {_counts(counts)}{_order(rows)}"
    fields = {*rows.compared, *found.fields.added, *found.fields.removed, *found.fields.changed}
    if len(rows.compared) < len(fields):
        yield f"  compared by the fields that both have with the same type: {', '.join(rows.compared)}"
    if rows.suggested_key:
        yield f"  --key {rows.suggested_key} shows changed rows"
    # The files of a model are listed one by one above.
    shown = [name for name in rows.fields if not (found.files and name == "files")]
    yield from (f"  {name}: changed in {row_count(rows.fields[name])}" for name in shown)
    for change in rows.samples_changed:
        yield from _change(change, shown)
    yield from _more(len(rows.samples_changed), rows.changed, "changed")
    yield from _only("-", found.old, rows.samples_removed)
    yield from _more(sum(row.copies for row in rows.samples_removed), rows.removed, "removed")
    yield from _only("+", found.new, rows.samples_added)
    yield from _more(sum(row.copies for row in rows.samples_added), rows.added, "added")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "none"


def _order(rows: RowDiff) -> str:
    if rows.moved is None or "row" in rows.key:
        return ""
    return f", in another order ({rows.moved:,} moved)" if rows.moved else ", in the same order"


def _only(sign: str, side: Side, rows: Sequence[RowSample]) -> Iterator[str]:
    for row in rows:
        yield ""
        yield f"{sign} row {row.row} of {side}" + (f" ({row.copies:,} more copies)" if row.copies > 1 else "")
        for name, value in row.values.items():
            if value is not None:
                yield f"    {name}: {_cut(_text(value))}"


def _change(change: Change, shown: Sequence[str]) -> Iterator[str]:
    named = "".join(f", {name} {_cut(_text(value))}" for name, value in change.key.items())
    now = "" if change.old_row == change.new_row else f", now {change.new_row}"
    yield ""
    yield f"~ row {change.old_row}{now}{named}"
    for name, values in change.fields.items():
        if name in shown:
            texts = [_text(value) for value in values]
            if texts[0] == texts[1]:  # the difference does not show on a line
                texts = [repr(value) for value in values]
            start = max(0, _same_start(*texts) - BEFORE)
            yield f"    {name}"
            yield from (
                f"      {sign} {'…' if start else ''}{_cut(text[start:])}" for sign, text in zip("-+", texts, strict=True)
            )


def _text(value: Any) -> str:
    from engine.cli.output import cell_text

    return "(null)" if value is None else repr(value) if isinstance(value, float) else cell_text(value, None)


def _same_start(first: str, second: str) -> int:
    differs = (place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differs, min(len(first), len(second)))


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _more(shown: int, total: int, what: str) -> Iterator[str]:
    if 0 < shown < total:
        yield ""
        yield f"({total - shown:,} more {what}; -n shows more)"
