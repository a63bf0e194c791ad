"""Lineage as a tree: a row at the root, and below it what it was made from (or what was made from it)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from rich.text import Text
from rich.tree import Tree

from engine.cli.output import cell_text
from registry import Decision, Session
from registry.counted import counted
from registry.lineage.targets import Version
from registry.lineage.walk import Direction, Hop, InputLink, Reached, RowNumbers, Walk

_SHOWN = 120
_DEEPEST = 20
"""The maximum number of levels of a tree that are drawn; each is indented by four more columns."""


class Node(NamedTuple):
    """A row of a version; None stands for rows whose numbers are unknown."""

    version: Version
    row: int | None


def row_tree(session: Session, walk: Walk, direction: Direction, width: int) -> Tree:
    """The tree of a walk that starts at one row.

    Args:
        width: the number of rows of one version to show below a node; the others are counted.
    """
    below = _Below(session, walk, direction, width)
    start = Node(walk.reached[0].version, int(walk.reached[0].rows[0]))  # type: ignore[index]
    shown: dict[Node, list[Node | Text]] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node not in shown:
            shown[node] = below.children(node)
            waiting += [each for each in shown[node] if isinstance(each, Node)]
    # Version by version, because reading one row means reading its whole object.
    records = {
        Node(version, row): record
        for version, nodes in groupby(sorted(node for node in shown if node.row is not None), key=lambda node: node.version)
        for row, record in session.records_at(version, [int(node.row or 0) for node in nodes]).items()
    }
    return _drawn(start, shown.__getitem__, lambda node: _label(session, node, records.get(node, {})))


def version_tree(session: Session, start: Version, direction: Direction) -> Tree:
    """The versions that a version was made from, or that were made from it."""
    graph = session.lineage.graph

    def children(link: InputLink) -> list[InputLink | Text]:
        return list(graph.links(link.beyond(direction), direction))

    def label(link: InputLink) -> Text:
        text = _version_label(session, link.beyond(direction))
        return text.append(" (as its model)" if direction == "up" else " (using it as the model)") if link.model else text

    root = InputLink(start, start, place=-1, model=False, opaque=False)
    return _drawn(root, children, label, lambda link: link.beyond(direction))


def _drawn(
    root: Any,
    children: Callable[[Any], list[Any]],
    label: Callable[[Any], Text],
    identity: Callable[[Any], Hashable] = lambda node: node,
) -> Tree:
    """A graph as a tree: a node that was drawn before is not expanded again."""
    top = Tree("", hide_root=True, highlight=False)
    drawn: set[Hashable] = set()
    waiting: list[tuple[Tree, Any, int]] = [(top, root, 0)]
    while waiting:
        branch, node, depth = waiting.pop()
        if isinstance(node, Text):
            branch.add(node)
        elif identity(node) in drawn:
            branch.add(label(node).append(" (see above)"))
        else:
            drawn.add(identity(node))
            below = branch.add(label(node))
            further = list(children(node))
            if further and depth == _DEEPEST:
                further = [Text("... and more (--json shows all)")]
            waiting += [(below, child, depth + 1) for child in reversed(further)]
    return top


def walk_document(session: Session, walk: Walk) -> dict[str, Any]:
    """A walk as JSON: the rows it reached, with their records, and the edges between them."""
    return {
        "rows": [line for reached in walk.reached for line in _lines(session, reached)],
        "edges": [
            {"child": hop.child.name, "child_version": hop.child.number, "child_row": child}
            | {"parent": hop.parent.name, "parent_version": hop.parent.number, "parent_row": parent}
            for hop in walk.hops
            for child, parent in zip(hop.child_rows.tolist(), hop.parent_rows.tolist(), strict=True)
        ],
    }


def _lines(session: Session, reached: Reached) -> Iterator[dict[str, Any]]:
    _, version, rows = reached
    records = {} if rows is None else session.records_at(version, rows)
    for line in session.lineage.lines(reached):
        record = records.get(line["row"])
        made = [each.model_dump(mode="json") for each in session.decisions_about(record)] if record else []
        yield {**line, "record": record, "decisions": made}


class _Below:
    """The nodes below each row of a walk: at most `width` rows of each version, and the number of others."""

    def __init__(self, session: Session, walk: Walk, direction: Direction, width: int) -> None:
        self._graph = session.lineage.graph
        self._direction: Direction = direction
        self._width = width
        self._unknown_rows = {reached.version for reached in walk.reached if reached.rows is None}
        self._hops: defaultdict[Version, list[Hop]] = defaultdict(list)
        for hop in walk.hops:
            self._hops[hop.child if direction == "up" else hop.parent].append(hop)

    def children(self, node: Node) -> list[Node | Text]:
        """The nodes below a node, version by version."""
        version, row = node
        found: defaultdict[Version, list[RowNumbers]] = defaultdict(list)
        for hop in self._hops[version] if row is not None else ():
            ends = (hop.child_rows, hop.parent_rows) if self._direction == "up" else (hop.parent_rows, hop.child_rows)
            found[hop.beyond(self._direction)].append(ends[1][ends[0] == row])
        links = self._graph.links(version, self._direction)
        unclear = self._unknown_rows & {link.beyond(self._direction) for link in links if link.opaque or row is None}
        shown: list[Node | Text] = []
        for other in sorted(found.keys() | unclear):
            rows = np.unique(np.concatenate(found[other])) if found[other] else _NONE
            shown += [Node(other, int(each)) for each in rows[: self._width]]
            if len(rows) > self._width:
                shown.append(Text(f"... and {counted(len(rows) - self._width, 'more row')} of {other}"))
            if other in unclear:
                shown.append(Node(other, None))
        return shown


_NONE: RowNumbers = np.empty(0, np.int64)


def _label(session: Session, node: Node, record: Mapping[str, Any]) -> Text:
    version, row = node
    if row is None:
        return Text(f"{version}: rows unknown", style="italic")
    label = Text(f"{version} row {row}", style="bold")
    shown = {name: value for name, value in record.items() if value not in (None, [], "")}
    if session.lineage.facts[version].kind == "model":
        shown = {name: shown[name] for name in ("base_model", "format") if name in shown}
    label.append(f"  {cell_text(shown, _SHOWN)}", style="not bold")
    for each in session.decisions_about(record):
        label.append(f"\n{_decision(each)}", style="italic not bold")
    return label


def _decision(each: Decision) -> str:
    """Who decided what about a row, and when."""
    new = f" of {', '.join(each.fields)}" if each.fields else ""
    labels = f", labels: {', '.join(each.labels)}" if each.labels else ""
    reason = f": {each.reason}" if each.reason else ""
    return cell_text(
        f"{each.queue}: {each.verdict}{new} by {each.reviewer}, {each.at:%Y-%m-%d %H:%M} UTC{labels}{reason}", _SHOWN
    )


def _version_label(session: Session, version: Version) -> Text:
    fact = session.lineage.facts[version]
    return Text(f"{version}  {fact.kind} of {fact.type}, {counted(fact.rows, 'row')}, step {fact.step}")
