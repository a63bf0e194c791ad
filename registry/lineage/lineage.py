"""The lineage of a registry: walks over rows and versions, with facts about each of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from registry.lineage.edge_objects import EdgeObjects, kept
from registry.lineage.targets import Version, resolve
from registry.lineage.walk import Direction, Graph, Reached, RowNumbers, Walk, graph, hops_from, walk
from registry.records.arrays import int64_array
from registry.storage.objects import ObjectStore

_CALL_TABLES = 4
"""Objects with model calls that are kept."""

_MOST_PARENTS = 20
"""Rows with more known sources than this have no siblings."""


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
        equals = con.execute(
            "select list(name), list(version) from internal.versions where rows > 0 "
            "group by name, content_id having count(*) > 1"
        ).fetchall()
        edges = con.execute("select name, version, sha256 from internal.side_objects where kind = 'lineage'").fetchall()
        self.graph: Graph = graph(links, edges, equals)
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
        self._edges = EdgeObjects(store)
        self._call_tables: OrderedDict[Hashable, pa.Table] = OrderedDict()

    def find(self, target: str) -> Version:
        """The version of a target: `NAME@V`, or `NAME` for the latest. Raises QueryError when there is none."""
        return resolve(target, lambda name: self._numbers.get(name, ()), self._latest.get, lambda: sorted(self._numbers))

    def walk(self, start: Version, rows: list[int] | RowNumbers, direction: Direction, *, through_models: bool = True) -> Walk:
        """See registry.lineage.walk; unknown row numbers are ignored.

        Args:
            through_models: whether to continue from a model that rows were made with to all the rows that it was trained on.
        """
        wanted = np.asarray(rows, np.int64)
        wanted = wanted[(wanted >= 0) & (wanted < self.facts[start].rows)]
        ends = frozenset() if through_models else frozenset(each for each in self.facts if self._is_model(each)) - {start}
        return walk(self.graph, self._edges, start, wanted, direction, ends) if len(wanted) else Walk()

    def calls(self, version: Version, rows: RowNumbers) -> dict[int, list[str]]:
        """The ids of the model calls that made rows of a version."""
        found = self.call_records(version, rows, ["local_row", "call_id"])
        return {row: sorted({call["call_id"] for call in calls}) for row, calls in found.items()}

    def call_records(
        self, version: Version, rows: RowNumbers, columns: list[str] | None = None
    ) -> dict[int, list[dict[str, Any]]]:
        """The model calls that made rows of a version, by row; see registry/catalog/side_schemas.py.

        Args:
            columns: the columns that are read, `local_row` among them; None: all that were recorded.
        """
        import pyarrow.compute as pc

        objects = self._calls.get(version, [])
        bases = [each.base for each in objects]
        # Several objects have the same base when partitions made no rows.
        nearest = {bases[place - 1] for row in rows if (place := bisect_right(bases, int(row)))}
        wanted = set(rows.tolist())
        found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for base, sha256 in (each for each in objects if each.base in nearest):
            table = self._call_table(sha256) if columns is None else self._store.read_table(sha256, columns)
            here = int64_array(np.array([row - base for row in wanted], np.int64))
            for call in table.filter(pc.is_in(table["local_row"], here)).to_pylist():
                if call["local_row"] is not None:
                    found[call["local_row"] + base].append(call)
        return dict(found)

    def _call_table(self, sha256: str) -> pa.Table:
        """All calls of an object. The last ones are kept: rows beside each other have their calls in the same object."""
        return kept(self._call_tables, sha256, lambda: self._store.read_table(sha256), _CALL_TABLES)

    def is_latest(self, version: Version) -> bool:
        """Whether the name of a version alone means it."""
        return self._latest.get(version.name) == version.number

    def siblings(self, version: Version, row: int) -> RowNumbers:
        """The rows of a version that came from the same known rows as one of them, and that one; it alone if none is known."""
        own = np.array([row], np.int64)
        hops = [hop for hop in hops_from(self.graph, self._edges, version, own, "up") if not self._is_model(hop.parent)]
        found: RowNumbers | None = None
        if sum(len(hop.parent_rows) for hop in hops) > _MOST_PARENTS:  # it sums rows up, as no other does
            return own
        for hop in hops:
            for parent_row in np.unique(hop.parent_rows):
                back = hops_from(self.graph, self._edges, hop.parent, np.array([parent_row], np.int64), "down", version)
                rows = np.unique(np.concatenate([own, *(each.child_rows for each in back)]))
                found = rows if found is None else np.intersect1d(found, rows)
        return own if found is None else found

    def _is_model(self, version: Version) -> bool:
        return version in self.facts and self.facts[version].kind == "model"

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
