"""Rows that come from the same row of a source: families, told by row lineage.

An operator that splits rows asks for them (`@operator(families=[...])`), so that what was made of one seed stays on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from registry import Manifest, Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.pipeline.graph import Step
    from engine.planning.plan import Input

Families = Mapping[str, tuple[int, ...]]
"""By input the number of each row's family; rows of one family have the same number."""


def families_of(step: Step, inputs: Mapping[str, tuple[Input, ...]], registry: Registry) -> Families:
    """The families of the inputs for which the step's operator asks."""
    return {port: families(inputs[port], registry) for port in step.operator.families if port in inputs}


def families(versions: Sequence[Input], registry: Registry) -> tuple[int, ...]:
    """The families of the rows of some versions laid end to end, numbered in the order they appear.

    Two rows are of one family when their lineage meets. What an operator on rows looks up in inputs that it is given whole
    does not count: a persona makes no family of the problems retold for it. A row whose lineage is not known is one itself.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts: dict[tuple[str, int], int] = {}
    known: list[Manifest] = []
    end = 0
    waiting = [(each.ref.name, each.ref.version, each.rows) for each in versions]
    while waiting:
        name, number, rows = waiting.pop()
        if (name, number) in starts:
            continue
        starts[name, number], end = end, end + rows
        if number:  # else it is a source that is not committed yet
            known.append(registry.manifest(name, number))
            waiting += [(ref.name, ref.version, registry.manifest(ref.name, ref.version).rows) for ref in known[-1].inputs]
    edges = [edge for manifest in known for edge in _edges(manifest, starts, registry)]
    children, parents = (np.concatenate([np.empty(0, np.int64), *(edge[side] for edge in edges)]) for side in (0, 1))
    graph = coo_array((np.ones(len(children), np.int8), (children, parents)), shape=(end, end))
    _, labels = connected_components(graph, directed=False)
    own = [labels[starts[each.ref.name, each.ref.version] :][: each.rows] for each in versions]
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for part in own for label in part.tolist())


def _edges(
    manifest: Manifest, starts: Mapping[tuple[str, int], int], registry: Registry
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(child, parent) rows of a version, numbered over all versions."""
    begin, found = starts[manifest.name, manifest.version], []
    for side in (each for each in manifest.side if each.kind == "lineage"):
        table = registry.store.read_table(side.sha256, ["child_row", "parent_row", "input"])
        child, parent, place = (table[column].to_numpy() for column in ("child_row", "parent_row", "input"))
        for number, ref in enumerate(manifest.inputs):
            if number not in manifest.broadcast_inputs:
                chosen = place == number
                found.append((child[chosen] + begin, parent[chosen] + starts[ref.name, ref.version]))
    return found
