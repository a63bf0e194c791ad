"""Commands on what a registry keeps: gc, pin, unpin."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.commands.shared import JsonOption, existing_registry, out, print_json
from engine.cli.invocation import propose
from engine.errors import PipelineError, Problem

if TYPE_CHECKING:
    from registry import Registry
    from registry.upkeep.gc import Garbage

SHOWN = 5
"""Of each kind, how many are listed by name."""

_LONGEST = dt.timedelta(days=36500)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

TargetArg = Annotated[str, typer.Argument(metavar="NAME[@V]")]


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it (the default).")] = False,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Keep what is younger: 90s, 30m, 2h, 7d, or 0 for nothing.")
    ] = "1h",
    json: JsonOption = False,
) -> None:
    """Show what nobody needs any more, and with --delete, delete it.

    Kept are versions that are the latest or the newest of their name, that are pinned, that a run has made or found since
    the oldest run began that is alive, and all that these were made from; objects of those versions and of finished parts
    of unfinished steps; and whatever is younger than --grace. The rest goes: versions that were superseded, objects,
    receipts of finished steps, and what crashes left. Answers of models are never deleted: they were paid for.

    Runs and queries may go on meanwhile. It waits for queries that are under way, and names them if it cannot wait longer.
    """
    from engine.upkeep.gc import collect, find

    if delete and dry_run:
        raise PipelineError([Problem("--delete and --dry-run contradict each other", hint="give one of them")])
    registry, keep = existing_registry(), _duration(grace)
    found = collect(registry, keep) if delete else find(registry, keep)
    if json:
        print_json(_document(found, delete))
        return
    for line in _lines(registry, found, delete, grace):
        out().print(line, soft_wrap=True)


def pin(target: TargetArg) -> None:
    """Keep a version, and all that it was made from, whatever `engine gc` deletes."""
    name, version = _resolved(target)
    registry = existing_registry()
    registry.catalog.pin(name, version)
    out().print(f"{name}@{version} is pinned: it is kept until `{propose('unpin', f'{name}@{version}')}`")


def unpin(target: TargetArg) -> None:
    """Take back what `engine pin` did."""
    name, version = _resolved(target)
    try:
        existing_registry().catalog.unpin(name, version)
    except KeyError as error:
        raise PipelineError([Problem(f"{name}@{version} is not pinned")]) from error
    out().print(f"{name}@{version} is not pinned any more")


def _resolved(target: str) -> tuple[str, int]:
    with existing_registry().session() as session:
        name, version = session.resolve(target)
    return name, version


def _duration(text: str) -> dt.timedelta:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if not match or not (match[2] or float(match[1]) == 0):
        raise PipelineError([Problem(f"--grace {text} is not a time", hint="write it like 90s, 30m, 2h or 7d")])
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _LONGEST.total_seconds():
        raise PipelineError([Problem(f"--grace {text} is too long", hint=f"give {_LONGEST.days}d at most")])
    return dt.timedelta(seconds=seconds)


def _document(found: Garbage, deleted: bool) -> dict[str, Any]:
    return {
        "deleted": deleted,
        "bytes": found.bytes,
        "versions": [
            {"name": each.name, "version": each.version, "version_id": each.version_id, "bytes": each.bytes}
            for each in found.versions
        ],
        "objects": [{"file": each.name, "bytes": each.bytes} for each in found.objects],
        "leftovers": [{"where": each.where, "what": each.what, "bytes": each.bytes} for each in found.leftovers],
        "paused": [{"where": each.where, "what": each.what, "bytes": each.bytes} for each in found.paused],
        "kept_versions": found.kept,
        "young_objects": {"count": len(found.young), "bytes": sum(each.bytes for each in found.young)},
        "horizon": found.horizon,
        "live_since": found.live_since,
    }


def _lines(registry: Registry, found: Garbage, deleted: bool, grace: str) -> Iterator[str]:
    kinds = {
        "version": [f"{each.ref}  {each.rows:,} rows, of {each.created_at:%Y-%m-%d %H:%M} UTC" for each in found.versions],
        "object": [f"objects/{each.name}  {each.bytes:,} bytes" for each in found.objects],
        "leftover": [f"{each.where}  {each.what}, {each.bytes:,} bytes" for each in found.leftovers],
    }
    counts = ", ".join(_count(len(names), kind) for kind, names in kinds.items() if names)
    done = "deleted" if deleted else "would delete"
    yield f"{done} {counts}: {found.bytes:,} bytes" if counts else "there is nothing to delete"
    for names in kinds.values():
        yield from _first(names)
    yield f"kept: {_count(found.kept, 'version')}, and answers of models ({_size(registry):,} bytes), which were paid for"
    if found.young:
        why = f"younger than {grace}" if found.live_since is None else "of the time since the oldest run began that is alive"
        if registry.url and found.live_since:
            why = "at a URL, where no object goes while a run is alive"
        size = sum(each.bytes for each in found.young)
        yield f"kept for now: {_count(len(found.young), 'object')} ({size:,} bytes) that no version needs, {why}"
    if found.paused:
        size = sum(each.bytes for each in found.paused)
        count = _count(len(found.paused), "unfinished step")
        yield f"kept for now: checkpoints of {count} ({size:,} bytes), to go on from. Delete the folder of one to give it up:"
        yield from _first([f"{each.where}  {each.bytes:,} bytes" for each in found.paused])
    if counts and not deleted:
        yield f"nothing was deleted; `{propose('gc', '--delete')}` deletes it"


def _first(names: Sequence[str]) -> Iterator[str]:
    yield from (f"  {name}" for name in names[:SHOWN])
    if len(names) > SHOWN:
        yield f"  ... and {len(names) - SHOWN:,} more (--json lists all)"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _size(registry: Registry) -> int:
    return sum(path.stat().st_size for path in registry.journal.glob("*") if path.is_file())
