"""The lineage of a registry: walks over rows and versions, with facts about each of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import Any, NamedTuple

import duckdb
import numpy as np

from registry.lineage.targets import resolve
from registry.lineage.walk import Direction, Graph, Reached, RowNumbers, Version, Walk, graph, walk
from registry.storage.objects import ObjectStore


class Fact(NamedTuple):
    """Facts about a version from the catalog."""

    kind: str
    type: str
    rows: int
    step: str
    run_id: str


class CallObject(NamedTuple):
    """An object with the model calls of the rows of a version, from `base` to the base of the next object."""

    base: int
    sha256: str


class Lineage:
    """The lineage of a registry at the time of construction.

    Args:
        con: a connection with the catalog's tables in schema `internal`; it is only used during construction.
        store: contains the objects.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, store: ObjectStore) -> None:
        links = con.execute(
            "select child, child_version, parent, parent_version, position, role, opaque from internal.inputs"
        ).fetchall()
        # A step that was a hit reused the outputs of other versions with the same rows: they descend from all of these.
        twins = con.execute(
            "select list(name), list(version) from internal.versions where rows > 0 "
            "group by name, content_id having count(*) > 1"
        ).fetchall()
        edges = con.execute("select name, version, sha256 from internal.side_objects where kind = 'lineage'").fetchall()
        self.graph: Graph = graph(links, edges, twins)
        calls = con.execute("select name, version, base, sha256 from internal.side_objects where kind = 'calls' order by base")
        self._calls: defaultdict[Version, list[CallObject]] = defaultdict(list)
        for name, version, base, sha256 in calls.fetchall():
            self._calls[Version(name, version)].append(CallObject(base, sha256))
        facts = con.execute("select name, version, kind, type, rows, step, run_id from internal.versions").fetchall()
        self.facts = {Version(name, version): Fact(*rest) for name, version, *rest in facts}
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        for name, number in self.facts:
            self._numbers[name].append(number)
        self._latest: dict[str, int] = dict(con.execute("select name, version from internal.refs").fetchall())
        self._store = store

    def find(self, target: str) -> Version:
        """The version of a target: `NAME@V`, or `NAME` for the latest. Raises QueryError when there is none."""
        return resolve(target, lambda name: self._numbers.get(name, ()), self._latest.get, lambda: sorted(self._numbers))

    def walk(self, start: Version, rows: list[int] | RowNumbers, direction: Direction) -> Walk:
        """See registry.lineage.walk; unknown row numbers are ignored."""
        wanted = np.asarray(rows, np.int64)
        wanted = wanted[(wanted >= 0) & (wanted < self.facts[start].rows)]
        return walk(self.graph, self._store, start, wanted, direction) if len(wanted) else Walk()

    def calls(self, version: Version, rows: RowNumbers) -> dict[int, list[str]]:
        """The ids of the model calls that made rows of a version."""
        objects = self._calls.get(version, [])
        bases = [each.base for each in objects]
        # Several objects have the same base when partitions made no rows.
        nearest = {bases[place - 1] for row in rows if (place := bisect_right(bases, int(row)))}
        wanted = set(rows.tolist())
        found: defaultdict[int, set[str]] = defaultdict(set)
        for base, sha256 in (each for each in objects if each.base in nearest):
            table = self._store.read_table(sha256, ["local_row", "call_id"])
            for local_row, call_id in zip(table["local_row"].to_pylist(), table["call_id"].to_pylist(), strict=True):
                if local_row is not None and local_row + base in wanted:
                    found[local_row + base].add(call_id)
        return {row: sorted(ids) for row, ids in found.items()}

    def trace(self, target: str, row: int) -> list[dict[str, Any]]:
        """The sources of a row, itself first, as lines of the SQL function `trace`."""
        return [line for reached in self.walk(self.find(target), [row], "up").reached for line in self.lines(reached)]

    def lines(self, reached: Reached) -> list[dict[str, Any]]:
        """Rows that a walk reached, with their calls; the row number is None where it is unknown which rows are meant."""
        depth, version, rows = reached
        head = {"depth": depth, "name": version.name, "version": version.number, "row": None}
        tail = {"step": self.facts[version].step, "call_ids": []}
        if rows is None:
            return [head | tail]
        calls = self.calls(version, rows)
        return [head | {"row": row} | tail | {"call_ids": calls.get(row, [])} for row in rows.tolist()]

    def versions(self, target: str, direction: Direction) -> list[dict[str, Any]]:
        """All versions that one was made from, or that were made from it, nearest first."""
        depths = {self.find(target): 0}
        layer = list(depths)
        while layer:
            ahead = {
                link.beyond(direction): depths[version] + 1
                for version in layer
                for link in self.graph.links(version, direction)
            }
            layer = [version for version in ahead if version not in depths]
            depths |= {version: ahead[version] for version in layer}
        found = sorted((depth, version) for version, depth in depths.items() if depth)
        return [
            {"depth": depth, "name": version.name, "version": version.number, "type": fact.type}
            | {"rows": fact.rows, "step": fact.step, "run_id": fact.run_id}
            for depth, version in found
            for fact in (self.facts[version],)
        ]
