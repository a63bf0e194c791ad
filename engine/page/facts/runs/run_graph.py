"""The graph of a run: the versions that steps read and made, with rows, losses and dollars on the edges."""

from __future__ import annotations

from collections.abc import Iterator

from engine.page.facts.graph import Edge, Graph, Node, Target
from engine.page.facts.runs.run import ModelUse, Part, RunFacts, StepFacts
from registry.counted import counted

_KINDS = ("dataset", "model", "calibration", "report")


def run_graph(run: RunFacts) -> Graph:
    """The graph of a run: versions, steps, and the models that were asked.

    An edge into a step shows the rows that it read. The edge to a step's first output shows the rows that were lost, and their
    price, as the views list them; an edge from a model shows the calls. Unchanged parts are muted. A model that is not in
    the registry has a node next to each step that asks it, because a single node would have edges across the whole graph.
    """
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], Edge] = {}
    made = {part.name for step in run.steps for part in step.outputs}
    for step in run.steps:
        nodes[f"step {step.name}"] = Node(
            f"step {step.name}", "step", step.name, tuple(_about(step)), _state(step), anchor=step.name
        )
        for node, edge in _around(step, made):
            # Several steps may name the same part, and one of them may know more about it.
            if node.id not in nodes or nodes[node.id].state == "missing":
                nodes[node.id] = node
            edges.setdefault((edge.start, edge.end), edge)
    return Graph(tuple(nodes.values()), tuple(edges.values()))


def _around(step: StepFacts, made: set[str]) -> Iterator[tuple[Node, Edge]]:
    """The nodes next to a step, each with its edge."""
    own, muted = f"step {step.name}", step.outcome == "hit"
    for part in step.inputs:
        node = _version(part, muted=muted, source=part.name not in made)
        yield node, Edge(node.id, own, _rows(part.rows), muted)
    for use in step.models:
        node = _model(use, step, muted=muted)
        yield node, Edge(node.id, own, tuple(_calls(use)), muted)
    for place, part in enumerate(step.outputs):
        node = _version(part, muted=muted, source=False)
        # While a step runs, only the losses are known.
        lines = (*_rows(part.rows), *(_losses(step) if place == 0 else ()))
        yield node, Edge(own, node.id, lines, muted)


def _version(part: Part, *, muted: bool, source: bool) -> Node:
    title = part.name.partition("/")[2] or part.name
    title = title if part.version is None else f"{title}@{part.version}"
    if part.version is None:
        return Node(f"part {part.name}", "source" if source else "dataset", title, (), "missing")
    kind = part.kind if part.kind in _KINDS else "dataset"
    named = Node(
        f"part {part.name}",
        "source" if source and kind == "dataset" else kind,  # type: ignore[arg-type]
        title,
        () if kind == "dataset" else (kind,),
    )
    if part.removed:
        return Node(named.id, named.kind, title, ("removed since",), "missing")
    return Node(named.id, named.kind, title, named.lines, "muted" if muted else "", Target(part.name, part.version))


def _model(use: ModelUse, step: StepFacts, *, muted: bool) -> Node:
    if use.version is not None:
        return _version(use.version, muted=muted, source=False)
    return Node(f"asked {use.model} by {step.name}", "asked", use.model, (), "muted" if muted else "")


def _state(step: StepFacts) -> str:
    return {"hit": "muted", "not reached": "missing"}.get(step.outcome, step.outcome)


def _about(step: StepFacts) -> Iterator[str]:
    yield step.op
    if step.progress:
        yield f"{step.progress.done:,} of {step.progress.total:,}"
    elif step.outcome == "hit":
        yield "unchanged"
    elif step.outcome != "ran":
        yield step.outcome


def _rows(rows: int | None) -> tuple[str, ...]:
    return () if rows is None else (counted(rows, "row"),)


def _losses(step: StepFacts) -> Iterator[str]:
    for name in ("filtered", "rejected", "unused"):
        if count := getattr(step, name):
            yield f"{count:,} {name}"
    if step.cost_usd:
        yield _dollars(step.cost_usd)


def _calls(use: ModelUse) -> Iterator[str]:
    if use.calls:
        yield counted(use.calls, "call")
    if use.calls_reused:
        yield f"{use.calls_reused:,} from the journal"
    if use.cost_usd:
        yield _dollars(use.cost_usd)


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"
