"""Groups of rows that come from the same row of a source, found through row lineage.

An operator that splits rows asks for them (`Grouped[...]`), so that everything made from one source row stays on one side
of the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.jobs.messages import InputVersion
from registry import Manifest, Registry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.pipeline.graph import Step

RowGroups = Mapping[str, tuple[int, ...]]
"""By input, the number of each row's group; rows of one group have the same number."""


def row_groups_of(step: Step, inputs: Mapping[str, tuple[InputVersion, ...]], registry: Registry) -> RowGroups:
    """The groups of the inputs for which the step's operator asks."""
    return {port: row_groups(inputs[port], registry) for port in step.operator.grouped if port in inputs}


def row_groups(versions: Sequence[InputVersion], registry: Registry, *, same_sources: bool = False) -> tuple[int, ...]:
    """The groups of the rows of several versions, concatenated and numbered in order of appearance.

    Two rows are in the same group if they share an ancestor. Rows that a row operator looked up in its whole inputs do not
    count: a persona does not join the problems that were rewritten for it. A row with unknown lineage is its own group.

    Args:
        versions: the versions with the rows.
        registry: the registry that has the versions.
        same_sources: equal rows of different versions without inputs count as one row, such as those of a file that grew.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts: dict[tuple[str, int], int] = {}
    ancestors: list[Manifest] = []
    end = 0
    waiting = [(each.ref.name, each.ref.version) for each in versions]
    uncommitted: dict[tuple[str, int], int] = {
        (each.ref.name, each.ref.version): each.rows for each in versions if not each.ref.version
    }
    while waiting:
        name, number = waiting.pop()
        if (name, number) in starts:
            continue
        starts[name, number] = end
        if (name, number) in uncommitted:
            end += uncommitted[name, number]
            continue
        manifest = registry.manifest(name, number)
        end += manifest.rows
        ancestors.append(manifest)
        waiting += [(ref.name, ref.version) for ref in manifest.inputs]
    edges = [edge for manifest in ancestors for edge in _edges(manifest, starts, registry)]
    edges += _equal_rows([each for each in ancestors if not each.inputs], starts, registry) if same_sources else []
    children, parents = (np.concatenate([np.empty(0, np.int64), *(edge[side] for edge in edges)]) for side in (0, 1))
    graph = coo_array((np.ones(len(children), np.int8), (children, parents)), shape=(end, end))
    _, labels = connected_components(graph, directed=False)
    own = [labels[starts[each.ref.name, each.ref.version] :][: each.rows] for each in versions]
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for part in own for label in part.tolist())


def _equal_rows(
    roots: Sequence[Manifest], starts: Mapping[tuple[str, int], int], registry: Registry
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Edges between equal rows of different versions; of several equal rows, the first goes with the first, and so on."""
    import numpy as np

    if len(roots) < 2:
        return []
    from registry.records.content import row_ids

    firsts: dict[tuple[str, int], int] = {}
    pairs: list[tuple[int, int]] = []
    for manifest in roots:
        seen: Counter[str] = Counter()
        ids = (each for data in manifest.data for each in row_ids(registry.store.read_table(data.sha256)))
        for row, each in enumerate(ids, starts[manifest.name, manifest.version]):
            pairs.append((row, firsts.setdefault((each, seen[each]), row)))
            seen[each] += 1
    both = np.asarray(pairs, np.int64).reshape(-1, 2)
    return [(both[:, 0], both[:, 1])]


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
