"""The page of costs."""

from __future__ import annotations

import datetime as dt

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.page.facts.runs.costs import costs
from engine.page.rendering.charts import bars
from engine.page.routes.site import page, reading

_SPANS = {"7": "the last 7 days", "30": "the last 30 days", "365": "the last year", "": "all time"}
_DAYS = 60
"""The most days of the chart; the table has all of them."""


def show_costs(request: Request) -> Response:
    """The costs of the runs of one pipeline or of all."""
    days = request.query_params.get("days", "")
    days = days if days in _SPANS else ""
    since = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=int(days)) if days else None
    with reading(request) as reader:
        found = costs(reader, request.query_params.get("pipeline", ""), since)
        pipelines = [name for (name,) in reader.session.ask("select distinct pipeline from runs order by 1").rows]
    priced = [(each.group[0], each.cost_usd) for each in found.days if each.cost_usd]
    chart = bars("Price by day, in dollars", "dollars", priced[-_DAYS:], "day")
    return page(request, "costs.html", costs=found, pipelines=pipelines, spans=_SPANS, days=days, days_chart=chart)


ROUTES = [Route("/costs", show_costs)]
