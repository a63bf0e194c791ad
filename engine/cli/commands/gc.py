"""Commands that decide what a registry keeps: gc, pin, unpin."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.commands.shared import Context, JsonOption, VersionArg, existing_registry, out, print_json
from engine.cli.invocation import propose
from engine.errors import PipelineError, Problem
from registry.counted import counted

if TYPE_CHECKING:
    from registry import Registry
    from registry.upkeep.gc import Garbage

SHOWN = 5
"""How many items of each kind are listed by name."""

_LONGEST = dt.timedelta(days=36500)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def gc(
    context: Context,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is found. Without this option, it is only listed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is found; this is the default.")] = False,
    grace: Annotated[
        str,
        typer.Option("--grace", metavar="TIME", help="Keep what is younger than this: 90s, 30m, 2h, 7d, or 0."),
    ] = "1h",
    json: JsonOption = False,
) -> None:
    """Show or delete what is no longer needed.

    These are kept: the latest and the newest version of each name, pinned versions, versions that were made or reused since the
    oldest active run started, and everything these were made from; finished partitions of unfinished steps; and everything
    younger than --grace. The rest is deleted: superseded versions and their objects, receipts of finished steps, and
    leftovers of crashes. Model answers are never deleted, because they were paid for.

    Runs and queries can continue meanwhile. The command waits for running queries and names them if it has to give up.
    """
    from engine.upkeep.gc import collect, find

    if delete and dry_run:
        raise PipelineError([Problem("--delete and --dry-run contradict each other", hint="use one of them")])
    registry, keep = existing_registry(context), _duration(grace)
    found = collect(registry, keep) if delete else find(registry, keep)
    if json:
        print_json(_document(found, delete))
        return
    for line in _lines(registry, found, delete, grace):
        out().print(line, soft_wrap=True)


def pin(context: Context, target: VersionArg) -> None:
    """Protect a version from `engine gc`. Everything it was made from is protected, too."""
    registry = existing_registry(context)
    name, version = _resolved(registry, target)
    registry.catalog.pin(name, version)
    out().print(f"{name}@{version} is pinned. To release it: `{propose('unpin', f'{name}@{version}')}`")


def unpin(context: Context, target: VersionArg) -> None:
    """Undo `engine pin`."""
    registry = existing_registry(context)
    name, version = _resolved(registry, target)
    try:
        registry.catalog.unpin(name, version)
    except KeyError as error:
        raise PipelineError([Problem(f"{name}@{version} is not pinned")]) from error
    out().print(f"{name}@{version} is no longer pinned")


def _resolved(registry: Registry, target: str) -> tuple[str, int]:
    with registry.session() as session:
        name, version = session.resolve(target)
    return name, version


def _duration(text: str) -> dt.timedelta:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if not match or not (match[2] or float(match[1]) == 0):
        raise PipelineError([Problem(f"--grace {text} is not a duration", hint="write it as 90s, 30m, 2h or 7d")])
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _LONGEST.total_seconds():
        raise PipelineError([Problem(f"--grace {text} is too long", hint=f"the maximum is {_LONGEST.days}d")])
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
        "version": [
            f"{each.ref}  {counted(each.rows, 'row')}, created {each.created_at:%Y-%m-%d %H:%M} UTC" for each in found.versions
        ],
        "object": [f"objects/{each.name}  {counted(each.bytes, 'byte')}" for each in found.objects],
        "leftover": [f"{each.where}  {each.what}, {counted(each.bytes, 'byte')}" for each in found.leftovers],
    }
    counts = ", ".join(counted(len(names), kind) for kind, names in kinds.items() if names)
    done = "deleted" if deleted else "would delete"
    yield f"{done} {counts}: {counted(found.bytes, 'byte')}" if counts else "nothing to delete"
    for names in kinds.values():
        yield from _first(names)
    answers = counted(_size(registry), "byte")
    yield f"kept: {counted(found.kept, 'version')}, and all model answers ({answers}), which were paid for"
    if found.young:
        why = f"younger than {grace}" if found.live_since is None else "newer than the start of the oldest active run"
        if registry.url and found.live_since:
            why = "because no object at a URL is deleted while a run is active"
        size = sum(each.bytes for each in found.young)
        yield f"kept for now: {counted(len(found.young), 'object')} ({counted(size, 'byte')}) that no version uses, {why}"
    if found.paused:
        paused = counted(sum(each.bytes for each in found.paused), "byte")
        count = counted(len(found.paused), "unfinished step")
        yield f"kept for now: checkpoints of {count} ({paused}), which can continue. To discard one, delete its folder:"
        yield from _first([f"{each.where}  {counted(each.bytes, 'byte')}" for each in found.paused])
    if counts and not deleted:
        yield f"nothing has been deleted. To delete this: `{propose('gc', '--delete')}`"


def _first(names: Sequence[str]) -> Iterator[str]:
    yield from (f"  {name}" for name in names[:SHOWN])
    if len(names) > SHOWN:
        yield f"  ... and {len(names) - SHOWN:,} more (--json lists all)"


def _size(registry: Registry) -> int:
    return sum(path.stat().st_size for path in registry.journal.glob("*") if path.is_file())
