"""The page of a run."""

from __future__ import annotations

import datetime as dt
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from engine.errors import EngineError
from engine.page.facts.runs.now import logs, newest_rows
from engine.page.facts.runs.rejects import rejects
from engine.page.facts.runs.run import RunFacts, StepFacts, run_facts
from engine.page.facts.runs.run_graph import run_graph
from engine.page.rendering.pages import render
from engine.page.routes.graphs import anchor, graph_data
from engine.page.routes.site import page, reading, site_of
from engine.page.sessions import Reader
from registry.errors import RegistryError


def show_run(request: Request) -> Response:
    """Everything about a run; with `with`, compared with another one."""
    run_id, other = request.path_params["run_id"], request.query_params.get("with", "")
    with reading(request) as reader:
        run = run_facts(reader, run_id)
        values = _now(request, reader, run) | {"compared": _compared(reader, run_id, other), "other": other}
    return page(request, "run.html", **values)


def show_now(request: Request) -> Response:
    """The parts of a run's page that change while it is running."""
    with reading(request) as reader:
        now = _now(request, reader, run_facts(reader, request.path_params["run_id"]))
    return HTMLResponse(render("run_now.html", site_of(request).frame, **now))


def _now(request: Request, reader: Reader, run: RunFacts) -> dict[str, Any]:
    links = site_of(request).frame.links
    return {
        "run": run,
        "graph": graph_data(run_graph(run), links),
        "anchor": anchor,
        "newest": {step.name: newest_rows(reader, step) for step in run.steps if step.progress},
        "spans": _spans(run),
        "rejects": rejects(reader, run),
        "logs": logs(reader, run.run_id),
    }


def _spans(run: RunFacts) -> dict[str, tuple[float, float]]:
    """When each step began and how long it took, in thousandths of the time from the run's start to its last step's end."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)

    def ends(step: StepFacts) -> tuple[float, float] | None:
        if step.started_at is None:
            return None
        # Clocks may go back while a run is under way.
        start = max(0.0, (step.started_at - run.started_at).total_seconds())
        return start, max(start, ((step.ended_at or now) - run.started_at).total_seconds())

    known = {step.name: span for step in run.steps if (span := ends(step))}
    end = max((stop for _, stop in known.values()), default=0.0) or 1.0
    return {name: (1000 * start / end, max(4.0, 1000 * (stop - start) / end)) for name, (start, stop) in known.items()}


def _compared(reader: Reader, run_id: str, other: str) -> list[Any]:
    """The comparison with another run as tables, headings and lines; an error as one line."""
    if not other:
        return []
    from engine.comparison.compare import compare  # it takes a while to import
    from engine.comparison.report import content

    try:
        return list(content(compare(reader.registry, [other, run_id])))
    except (EngineError, RegistryError) as error:
        return [str(error)]


ROUTES = [Route("/runs/{run_id}", show_run), Route("/live/runs/{run_id}", show_now)]
