"""Commands that prove and mend a registry: fsck, rebuild."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from engine.cli.commands.shared import JsonOption, existing_registry, out, print_json


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
        looked_at = {kind: asdict(tally) for kind, tally in report.looked_at.items()}
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
    return {name: value for name, value in asdict(finding).items() if name != "severity"}


def _print(report: Any, deep: bool, seconds: float) -> None:
    from engine.cli.output import grid

    console = out()
    console.print(grid(["", "files", "bytes"], [[kind, tally.count, tally.bytes] for kind, tally in report.looked_at.items()]))
    console.print(f"{'all of it was read' if deep else 'sizes and presence; --deep reads all of it'}, in {seconds:.1f} s")
    for finding in report.findings:
        hit = f" [{', '.join(finding.versions)}]" if finding.versions else ""
        console.print(f"\n{finding.severity}: {finding.where}: {finding.what}{hit}", soft_wrap=True)
        console.print(f"  {finding.advice}", soft_wrap=True)
    errors, notes = len(report.errors), len(report.notes)
    verdict = f"{errors} {'error' if errors == 1 else 'errors'}, {notes} {'note' if notes == 1 else 'notes'}"
    console.print(f"\n{verdict if errors or notes else 'nothing is wrong'}")
