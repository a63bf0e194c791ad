"""Row lineage across versions: which rows a row came from, and which came from it.

Edges between rows are in side objects of the child versions. A walk follows the version graph, one hop at a time, and only
reads the objects of the versions that it reaches. Its cost depends on those, not on the number of all edges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from registry.lineage.edge_objects import Column, EdgeObjects
from registry.lineage.targets import Version
from registry.records.arrays import numbers_of

RowNumbers = npt.NDArray[np.int64]
Direction = Literal["up", "down"]


class InputLink(NamedTuple):
    """An input of a version: `place` is its index in row edges; a model is an input without row edges.

    `opaque`: for some or all rows, it is unknown which of its rows they came from.
    """

    child: Version
    parent: Version
    place: int
    model: bool
    opaque: bool

    def beyond(self, direction: Direction) -> Version:
        """The version at the other end."""
        return self.parent if direction == "up" else self.child


@dataclass(frozen=True)
class Graph:
    """The versions of a registry, their links, and the objects with their row edges."""

    parents: Mapping[Version, Sequence[InputLink]]
    children: Mapping[Version, Sequence[InputLink]]
    edges: Mapping[Version, Sequence[str]]

    def links(self, version: Version, direction: Direction) -> Sequence[InputLink]:
        """The links of a version to its inputs (`up`), or to the versions made from it (`down`)."""
        return (self.parents if direction == "up" else self.children).get(version, ())


class Hop(NamedTuple):
    """Known row edges between two versions: `child_rows[i]` came from `parent_rows[i]`."""

    child: Version
    child_rows: RowNumbers
    parent: Version
    parent_rows: RowNumbers

    def beyond(self, direction: Direction) -> Version:
        """The version at the other end."""
        return self.parent if direction == "up" else self.child


class Reached(NamedTuple):
    """Rows of a version that a walk reached in `depth` hops; None: it is unknown which of its rows are meant."""

    depth: int
    version: Version
    rows: RowNumbers | None


@dataclass
class Walk:
    """The rows that a walk reached, nearest first, and the edges between rows that it followed."""

    reached: list[Reached] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)


def graph(
    inputs: Sequence[tuple[str, int, str, int, int, str, bool]],
    objects: Sequence[tuple[str, int, str]],
    equals: Sequence[tuple[Sequence[str], Sequence[int]]] = (),
) -> Graph:
    """The graph from the catalog's tables.

    Args:
        inputs: (child, child_version, parent, parent_version, position, role, opaque).
        objects: (name, version, sha256) of objects with row edges.
        equals: (names, versions) of versions of a name with the same rows. A step whose input rows did not change is not run
            again: its outputs count as made from all of these versions, unless it made other outputs from one of them.
    """
    parents: defaultdict[Version, list[InputLink]] = defaultdict(list)
    children: defaultdict[Version, list[InputLink]] = defaultdict(list)
    edges: defaultdict[Version, list[str]] = defaultdict(list)
    for child, child_version, parent, parent_version, place, role, opaque in inputs:
        link = InputLink(Version(child, child_version), Version(parent, parent_version), place, role == "model", opaque)
        parents[link.child].append(link)
        children[link.parent].append(link)
    made = {version: tuple(links) for version, links in children.items()}
    for names, versions in equals:
        same = list(map(Version, names, versions))
        for one in same:
            own = {link.child.name for link in made.get(one, ())}
            others = [link for equal in same if equal != one for link in made.get(equal, ()) if link.child.name not in own]
            children[one] += [link._replace(parent=one) for link in others]
    for name, version, sha256 in objects:
        edges[Version(name, version)].append(sha256)
    return Graph(parents, children, edges)


def walk(
    graph: Graph,
    objects: EdgeObjects,
    start: Version,
    rows: Sequence[int] | RowNumbers,
    direction: Direction,
    ends: frozenset[Version] = frozenset(),
) -> Walk:
    """Everything that rows of a version came from (`up`), or that came from them (`down`), in few hops; themselves first.

    A row of a step with a model of the registry came from the model (its row 0), and a model came from the rows that its
    trainer used. It is unknown which rows came from a model: it may be any row that was made with it.

    Args:
        ends: versions beyond which it does not go.

    Raises:
        CorruptError: an object with edges is damaged or missing.
    """
    found = Walk()
    reader = _Edges(graph, objects, direction)
    met: dict[Version, RowNumbers] = {}
    known = {start: np.unique(np.asarray(rows, np.int64))}
    seen_unknown: set[Version] = set()
    unknown: set[Version] = set()
    depth = 0
    while known or unknown:
        found.reached += [Reached(depth, version, at) for version, at in known.items()]
        found.reached += [Reached(depth, version, None) for version in sorted(unknown)]
        met |= {version: np.union1d(met.get(version, _NONE), at) for version, at in known.items()}
        seen_unknown |= unknown
        known = {version: at for version, at in known.items() if version not in ends}
        unknown -= ends
        hops = [hop for version, at in known.items() for hop in reader.hops(version, at)]
        found.hops += hops
        unclear = {
            link.beyond(direction) for version in known for link in graph.links(version, direction) if reader.unclear(link)
        }
        unclear |= {link.beyond(direction) for version in unknown for link in graph.links(version, direction)}
        unknown = unclear - seen_unknown
        ahead: defaultdict[Version, list[RowNumbers]] = defaultdict(list)
        for hop in hops:
            ahead[hop.beyond(direction)].append(hop.parent_rows if direction == "up" else hop.child_rows)
        fresh = {version: np.setdiff1d(np.concatenate(parts), met.get(version, _NONE)) for version, parts in ahead.items()}
        known = {version: at for version, at in fresh.items() if len(at)}
        depth += 1
    return found


def hops_from(
    graph: Graph, objects: EdgeObjects, version: Version, rows: RowNumbers, direction: Direction, to: Version | None = None
) -> list[Hop]:
    """The known edges that start at rows (in order) of a version, and lead to `to` if it is given. Raises CorruptError."""
    return _Edges(graph, objects, direction).hops(version, rows, to)


_NONE: RowNumbers = np.empty(0, np.int64)


class _Edges:
    """Reads the row edges for a walk."""

    def __init__(self, graph: Graph, objects: EdgeObjects, direction: Direction) -> None:
        self._graph = graph
        self._objects = objects
        self._direction: Direction = direction
        self._read: dict[tuple[str, int, int], pa.Table] = {}

    def unclear(self, link: InputLink) -> bool:
        """Whether rows beyond the link may be reached without an edge that names them."""
        return link.opaque and not (link.model and self._direction == "up")

    def hops(self, version: Version, rows: RowNumbers, to: Version | None = None) -> list[Hop]:
        """The edges that start at rows of a version, link by link; `to` as in hops_from."""
        found = []
        for link in self._graph.links(version, self._direction):
            if to is not None and link.beyond(self._direction) != to:
                continue
            if link.model:
                if self._direction == "up":
                    found.append(Hop(link.child, rows, link.parent, np.zeros(len(rows), np.int64)))
                continue
            for sha256 in self._graph.edges.get(link.child, ()):
                child_rows, parent_rows = self._select(sha256, link.place, rows)
                if len(child_rows):
                    found.append(Hop(link.child, child_rows, link.parent, parent_rows))
        return found

    def _select(self, sha256: str, place: int, rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
        """(child rows, parent rows) of the edges of input `place` that start at `rows`."""
        column: Column = "child_row" if self._direction == "up" else "parent_row"
        least, most = int(rows[0]), int(rows[-1])
        if (sha256, least, most) not in self._read:
            self._read[sha256, least, most] = self._objects.between(sha256, column, least, most)
        table = self._read[sha256, least, most]
        chosen = numbers_of(table["input"]) == place
        chosen &= np.isin(numbers_of(table[column]), rows)
        return numbers_of(table["child_row"])[chosen], numbers_of(table["parent_row"])[chosen]
