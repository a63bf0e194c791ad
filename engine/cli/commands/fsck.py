"""Commands that verify and repair a registry: fsck, rebuild."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.cli.commands.shared import Context, JsonOption, existing_registry, out, print_json
from engine.cli.invocation import propose
from registry.counted import counted


def fsck(
    context: Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and verify every row.")] = False,
    json: JsonOption = False,
) -> None:
    """Verify the registry's files. The exit code is 1 if something is damaged or missing."""
    from engine.upkeep.fsck import fsck as verify

    registry = existing_registry(context)
    started = time.monotonic()
    report = verify(registry, deep=deep)
    seconds = round(time.monotonic() - started, 3)
    if json:
        looked_at = {kind: asdict(count) for kind, count in report.checked.items()}
        findings = {kind: [_plain(each) for each in found] for kind, found in _found(report).items()}
        print_json({"registry": str(registry.root), "deep": deep, "seconds": seconds, "looked_at": looked_at, **findings})
    else:
        _print(report, deep, seconds)
    if report.errors:
        raise typer.Exit(1)


def rebuild(context: Context) -> None:
    """Rebuild registry.duckdb from the manifests and run journals."""
    count = existing_registry(context).catalog.rebuild()
    out().print(f"rebuilt from {counted(count, 'manifest')}")


def _found(report: Any) -> dict[str, Any]:
    return {"errors": report.errors, "notes": report.notes}


def _plain(finding: Any) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(finding).items() if name not in ("severity", "remedy")}
    return plain | {"advice": _advice(finding)}


def _advice(finding: Any) -> str:
    """What to do, with the command for it."""
    commands = {"rebuild": "rebuild", "collect": "gc"}
    return f"{finding.advice} (`{propose(commands[finding.remedy])}`)" if finding.remedy else str(finding.advice)


def _print(report: Any, deep: bool, seconds: float) -> None:
    from engine.cli.output import grid

    console = out()
    console.print(
        grid(["", "files", "bytes"], [[kind, count.count, count.bytes] for kind, count in report.checked.items()], counts=True)
    )
    console.print(f"{'read everything' if deep else 'checked presence and sizes (--deep reads everything)'} in {seconds:.1f} s")
    for finding in report.findings:
        affected = f" [{', '.join(finding.versions)}]" if finding.versions else ""
        console.print(f"\n{finding.severity}: {finding.where}: {finding.what}{affected}", soft_wrap=True)
        console.print(f"  {_advice(finding)}", soft_wrap=True)
    errors, notes = len(report.errors), len(report.notes)
    verdict = f"{counted(errors, 'error')}, {counted(notes, 'note')}"
    console.print(f"\n{verdict if errors or notes else 'no problems found'}")
