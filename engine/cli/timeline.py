"""The timeline of a run: when each step ran, how long it took, and what it waited for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.output import grid, records
from engine.errors import PipelineError, Problem, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from registry import Session

_NARROWEST, _WIDEST = 10, 80
"""Characters of the time axis."""
_NAMES = 40
"""Characters of a name that are shown, at most."""
_IDS_SHOWN, _IDS_COMPARED = 3, 1000
"""How many of the newest runs an error names, and how many are compared with a mistyped id."""
_SIMILAR = 0.8
"""How similar a mistyped run id must be to one that exists. All ids of a day are more similar than misspelled words."""

_COLUMNS = ("step", "start", "duration", "outcome", "rows out", "calls", "waited for")
_NUMBERS = ("start", "duration", "rows out", "calls")
_DISPENSABLE = ("start", "rows out", "calls")
"""Columns that a terminal of less than 80 characters has no room for."""
_GAP = 2
"""Spaces between columns."""


def run_timeline(session: Session, run_id: str) -> dict[str, Any]:
    """A run as the view `runs` has it, and its `steps` as `step_runs` has them, in the order in which they started.

    Raises:
        PipelineError: there is no such run.
    """
    found = records(session.ask("select * from runs where run_id = ?", [run_id]))
    if not found:
        query = f"select run_id from runs order by started_at desc, run_id desc limit {_IDS_COMPARED}"
        newest = [name for (name,) in session.ask(query).rows]
        shown = f"the newest runs: {', '.join(newest[:_IDS_SHOWN])}" if newest else "run a pipeline first"
        raise PipelineError(
            [Problem(f"there is no run {run_id!r}", hint=did_you_mean(run_id, newest, shown, similarity=_SIMILAR))]
        )
    steps = records(session.ask("select * exclude (run_id) from step_runs where run_id = ?", [run_id]))
    # Sorting is stable: steps without times keep the order in which they ended.
    return {**found[0], "steps": sorted(steps, key=lambda step: step["started_at"] or dt.datetime.max)}


def print_timeline(run: Mapping[str, Any], console: Console) -> None:
    """Print a run, with a bar for each step on a common time axis that begins when the run did.

    Args:
        run: the timeline of the run, from `run_timeline`.
        console: where to print; the axis fills the width that the other columns leave.
    """
    steps, began = run["steps"], run["started_at"]
    console.print(f"Run {run['run_id']} of pipeline {run['pipeline']}: {_state(run)}", soft_wrap=True)
    console.print(f"started {began:%Y-%m-%d %H:%M:%S} UTC", soft_wrap=True)
    if steps:
        console.print()
        console.print(_table(steps, began, console))
    if run["state"] == "running":
        console.print("\nThe run is under way. A step appears here when it has ended.")
    elif not steps:
        console.print("\nNo step of this run was recorded.")
    if steps and not any(step["started_at"] for step in steps):
        console.print("\nAn older version of the engine recorded this run, without the times of its steps.")
    if run["error"]:
        console.print(f"\n{run['error']}", soft_wrap=True)


def _state(run: Mapping[str, Any]) -> str:
    # A run whose process died got its end when someone looked, which may be days later.
    if run["state"] in ("succeeded", "failed", "waiting") and run["ended_at"]:
        return f"{run['state']} after {_duration((run['ended_at'] - run['started_at']).total_seconds())}"
    return str(run["state"])


def _table(steps: Sequence[Mapping[str, Any]], began: dt.datetime, console: Console) -> Table:
    spans = [_span(step, began) for step in steps]
    cells = [_cells(step, span) for step, span in zip(steps, spans, strict=True)]
    shown = [name for name in _COLUMNS if console.width >= 80 or name not in _DISPENSABLE]
    ascii_only = console.options.ascii_only
    plain = _laid_out(shown, cells, ascii_only)
    if not any(spans):
        return plain
    end = max(stop for _, stop in filter(None, spans))
    room = console.width - console.measure(plain, options=console.options.update(width=1000)).maximum - _GAP
    width = min(max(room, _NARROWEST), _WIDEST)
    axis = f"{'0 s' if width > 15 else '':<3}{_duration(end):>{width - 3}}"
    drawn = [
        {axis: _bar(*span, end, width, "#" if ascii_only else "█") if span else "", **row}
        for span, row in zip(spans, cells, strict=True)
    ]
    place = shown.index("duration") + 1
    return _laid_out([*shown[:place], axis, *shown[place:]], drawn, ascii_only)


def _laid_out(columns: Sequence[str], cells: Sequence[Mapping[str, Any]], ascii_only: bool) -> Table:
    table = grid(columns, [[row[name] for name in columns] for row in cells], cell=None, counts=True)
    table.padding = (0, _GAP - 1, 0, 0)  # the box adds one
    for name, column in zip(columns, table.columns, strict=True):
        column.justify = "right" if name in _NUMBERS else "left"
        if name in ("step", "waited for"):  # if they do not fit, they are cut; times and numbers never are
            column.max_width, column.overflow = _NAMES, "crop" if ascii_only else "ellipsis"
        else:
            column.no_wrap = True
    return table


def _cells(step: Mapping[str, Any], span: tuple[float, float] | None) -> dict[str, Any]:
    """The cells of a step by column."""
    return {
        "step": f"{step['variant']}/{step['step']}" if step["variant"] else step["step"],
        "start": _duration(span[0]) if span else "",
        "duration": _duration(span[1] - span[0] if span else step["seconds"]),
        "outcome": step["outcome"],
        "rows out": step["rows_out"],
        "calls": step["calls"],
        "waited for": step["waited_for"],
    }


def _span(step: Mapping[str, Any], began: dt.datetime) -> tuple[float, float] | None:
    """From when to when a step ran, in seconds since the run began; None when that was not recorded."""
    if step["started_at"] is None or step["ended_at"] is None:
        return None
    # Clocks may go back while a run is under way.
    start = max(0.0, (step["started_at"] - began).total_seconds())
    return start, max(start, (step["ended_at"] - began).total_seconds())


def _bar(start: float, stop: float, end: float, width: int, mark: str) -> str:
    """A bar from `start` to `stop` on an axis from 0 to `end` seconds that is `width` characters long; at least one mark."""
    scale = width / end if end else 0.0
    first = min(int(start * scale), width - 1)
    return " " * first + mark * max(1, round(stop * scale) - first)


def _duration(seconds: float) -> str:
    """`3.2 s`, `4 min 05 s` or `2 h 03 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
