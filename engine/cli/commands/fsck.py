"""Commands that prove and mend a registry: fsck, rebuild."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.cli.commands.shared import JsonOption, existing_registry, out, print_json
from engine.cli.invocation import propose


def fsck(
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and prove every row; else presence and sizes.")] = False,
    json: JsonOption = False,
) -> None:
    """Look whether the registry holds what was written to it; the exit code is 1 when something is damaged or lost."""
    from engine.upkeep.fsck import fsck as look

    registry = existing_registry()
    started = time.monotonic()
    report = look(registry, deep=deep)
    seconds = round(time.monotonic() - started, 3)
    if json:
        looked_at = {kind: asdict(count) for kind, count in report.checked.items()}
        findings = {kind: [_plain(each) for each in found] for kind, found in _found(report).items()}
        print_json({"registry": str(registry.root), "deep": deep, "seconds": seconds, "looked_at": looked_at, **findings})
    else:
        _print(report, deep, seconds)
    if report.errors:
        raise typer.Exit(1)


def rebuild() -> None:
    """Make registry.duckdb again from the manifests and run journals."""
    count = existing_registry().catalog.rebuild()
    out().print(f"rebuilt from {count} manifests")


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
    console.print(grid(["", "files", "bytes"], [[kind, count.count, count.bytes] for kind, count in report.checked.items()]))
    console.print(f"{'all of it was read' if deep else 'sizes and presence; --deep reads all of it'}, in {seconds:.1f} s")
    for finding in report.findings:
        versions = f" [{', '.join(finding.versions)}]" if finding.versions else ""
        console.print(f"\n{finding.severity}: {finding.where}: {finding.what}{versions}", soft_wrap=True)
        console.print(f"  {_advice(finding)}", soft_wrap=True)
    errors, notes = len(report.errors), len(report.notes)
    verdict = f"{errors} {'error' if errors == 1 else 'errors'}, {notes} {'note' if notes == 1 else 'notes'}"
    console.print(f"\n{verdict if errors or notes else 'nothing is wrong'}")
