"""A graph as its script reads it: nodes with addresses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from engine.page.facts.graph import Graph, Target
from engine.page.links import Links
from engine.printable import harmless


def graph_data(graph: Graph, links: Links) -> dict[str, Any]:
    """A graph for the page."""
    nodes = [
        {name: value for name, value in asdict(node).items() if name not in ("target", "anchor")}
        | {"title": harmless(node.title), "lines": [harmless(line) for line in node.lines]}
        | {"href": address_of(node.target, links) or (f"#{anchor(node.anchor)}" if node.anchor else "")}
        for node in graph.nodes
    ]
    return {"nodes": nodes, "edges": [asdict(edge) for edge in graph.edges]}


def address_of(target: Target | None, links: Links) -> str:
    """The address of a node's target; empty if it has none."""
    if target is None:
        return ""
    if target.row is None:
        return links.version(target.name, target.version)
    return links.row(target.name, target.version, target.row)


def anchor(name: str) -> str:
    """The id of the place of a step on its page, from any name."""
    return "step-" + "".join(each if each.isalnum() and each.isascii() else f"_{ord(each):x}_" for each in name)
