"""A graph as data: nodes with lines of text, and edges with labels. Other modules decide what it shows and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["source", "dataset", "model", "calibration", "report", "step", "asked", "start", "row", "rows"]
"""What a node stands for; `asked` is a model that is not in the registry, `start` the row that a graph is about."""


@dataclass(frozen=True)
class Target:
    """The target of a node: a version, or a row of it."""

    name: str
    version: int
    row: int | None = None


@dataclass(frozen=True)
class Node:
    """A node.

    Args:
        id: identifies it within its graph.
        title: its first line.
        lines: more lines.
        state: `muted` if it was not run again, `missing` if it does not exist (yet, or any more), or the state of a step.
        target: the version or row that it links to; None: none.
        anchor: the id of a place on the same page that it links to; empty: none.
    """

    id: str
    kind: Kind
    title: str
    lines: tuple[str, ...] = ()
    state: str = ""
    target: Target | None = None
    anchor: str = ""


@dataclass(frozen=True)
class Edge:
    """An edge in the direction in which rows flow; `muted` as for nodes."""

    start: str
    end: str
    lines: tuple[str, ...] = ()
    muted: bool = False


@dataclass(frozen=True)
class Graph:
    """A graph without circles."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
