"""The graph of a row: the rows that it came from, and those that came from it."""

from __future__ import annotations

from engine.page.facts.excerpts import excerpt
from engine.page.facts.graph import Edge, Graph, Kind, Node, Target
from engine.page.facts.story.row import RowStory, Stage
from registry.counted import counted
from registry.lineage.targets import Version

_LINE = 44
"""Characters of a row in its node."""


def row_graph(story: RowStory) -> Graph:
    """The graph of a row's story. Rows of one version that are not shown, or not known, are one node."""
    nodes: list[Node] = []
    edges: dict[tuple[str, str], Edge] = {}
    stages = [*story.before, *story.after]
    for stage in stages:
        for each in stage.rows:
            start = stage.version == story.version and each.row == story.row
            nodes.append(_row(stage, each.row, each.text, start=start))
        if stage.others:
            nodes.append(Node(_more(stage.version), "rows", _short(stage), (f"{counted(stage.others, 'more row')}",), "muted"))
        if stage.unknown:
            target = Target(*stage.version)
            nodes.append(Node(_unknown(stage.version), "rows", _short(stage), ("rows unknown",), "missing", target))
    known = {node.id for node in nodes}
    vague = {node.id for node in nodes if node.kind == "rows"}
    for hop in story.hops:
        ends = _id(*hop.parent), _id(*hop.child)
        if known.issuperset(ends):
            edges[ends] = Edge(*ends)
    # Rows that are not shown, or not known, are tied to their neighbours.
    ends_of = {stage.version: _ends(stage, known) for stage in stages}
    for stage in stages:
        for parent in stage.parents:
            above, below = ends_of.get(parent, []), ends_of[stage.version]
            if above and below:
                pairs = [(above[0], node) for node in below if node in vague] + [
                    (node, below[0]) for node in above if node in vague
                ]
                edges |= {ends: Edge(*ends, muted=True) for ends in pairs}
    return Graph(tuple(nodes), tuple(edges.values()))


def _row(stage: Stage, row: int, text: str, *, start: bool) -> Node:
    kind: Kind = "start" if start else "model" if stage.kind == "model" else "row"
    line = text if len(text) <= _LINE else f"{text[: _LINE - 1]}…"
    title = f"row {row} of {_short(stage)}" if stage.kind == "dataset" else _short(stage)
    target = None if stage.kind == "removed" else Target(*stage.version, row if stage.kind == "dataset" else None)
    return Node(
        _id(stage.version, row),
        kind,
        title,
        (line,) if line else (),
        "missing" if stage.kind == "removed" else "",
        None if start else target,
    )


def _short(stage: Stage) -> str:
    name = stage.version.name
    return excerpt(name.partition("/")[2] or name, _LINE).text


def _ends(stage: Stage, known: set[str]) -> list[str]:
    """The nodes of a stage to which others can be tied: the first row that is shown, then what stands for other rows."""
    first = [_id(stage.version, stage.rows[0].row)] if stage.rows else []
    return [*first, *(node for node in (_more(stage.version), _unknown(stage.version)) if node in known)]


def _id(version: Version, row: int) -> str:
    return f"{version} {row}"


def _more(version: Version) -> str:
    return f"{version} more"


def _unknown(version: Version) -> str:
    return f"{version} unknown"
