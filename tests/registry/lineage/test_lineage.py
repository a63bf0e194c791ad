"""Rows are traced through every kind of step; what is unknown is reported as unknown, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import CorruptError, DataObject, Draft, ObjectStore, QueryError, Registry, SideObject, StepRun, VersionRef
from registry.catalog import side_schemas
from registry.lineage.edge_objects import EdgeObjects
from registry.lineage.targets import Version
from registry.lineage.walk import graph, walk
from registry.query.impact import chosen_rows, impact

Edge = tuple[int, int, int]


def made(
    registry: Registry,
    run: str,
    name: str,
    rows: int,
    inputs: Sequence[VersionRef] = (),
    edges: Sequence[Edge] = (),
    **more: Any,
) -> VersionRef:
    """Commit a version; `edges` are (child row, number of the input, parent row)."""
    table = pa.table({"text": [f"{name} {row}" for row in range(rows)]}, schema=pa.schema([("text", pa.large_string())]))
    stored = registry.store.put_table(table)
    data = DataObject(sha256=stored.sha256, rows=rows, bytes=stored.bytes)
    extra = [side_object(registry.store, "lineage", sorted(edges), side_schemas.LINEAGE)] if edges else []
    extra += (
        [side_object(registry.store, "exposure", more.pop("exposure"), side_schemas.EXPOSURE)] if "exposure" in more else []
    )
    draft = Draft(
        name=f"p/{name}",
        kind=more.pop("kind", "dataset"),
        type="Word",
        fields={"text": "str"},
        content_id=name,
        pipeline="p",
        step=name,
        op="test",
        output="out",
        step_key=more.pop("step_key", name),
        key_object=data,
        inputs=tuple(inputs),
        data=(data,),
        side=tuple(extra),
        **more,
    )
    [manifest] = registry.catalog.commit([draft], run, StepRun(step=name, op="test", outcome="ran"))
    return manifest.ref


def side_object(store: ObjectStore, kind: Any, rows: Sequence[tuple[int, ...]], schema: pa.Schema) -> SideObject:
    """Rows of a side table as an object."""
    columns = [pa.array(column, field) for column, field in zip(zip(*rows, strict=True), schema.types, strict=True)]
    stored = store.put_table(pa.table(columns, schema=schema))
    return SideObject(kind=kind, sha256=stored.sha256, rows=len(rows), bytes=stored.bytes)


def build(registry: Registry) -> Registry:
    """seed -> pairs (with tags) -> lump, whose lineage is unknown; pairs -> model -> said, which the model made."""
    run = registry.catalog.begin_run("p", {})
    make = partial(made, registry, run)
    seed = make("seed", 4)
    tags = make("tags", 2)
    pairs = make("pairs", 3, [seed, tags], [(0, 0, 0), (0, 1, 1), (1, 0, 2), (2, 0, 2), (2, 0, 3)])
    lump = make("lump", 5, [pairs], opaque=(0,))
    model = make("model", 1, [pairs], [(0, 0, 0), (0, 0, 2)], kind="model", exposure=[(0, 0, 3), (0, 2, 1)])
    said = make("said", 6, [tags], [(row, 0, row % 2) for row in range(6)], models=(model,))
    kept = make("kept", 2, [said], [(0, 0, 4), (1, 0, 5)])
    registry.catalog.end_run(run, "succeeded", refs={ref.name: 1 for ref in (seed, tags, pairs, lump, model, said, kept)})
    return registry


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One registry for all tests that only read."""
    return build(Registry(tmp_path_factory.mktemp("family")))


def reached(registry: Registry, name: str, rows: list[int], direction: Any) -> dict[str, list[int] | None]:
    """Name -> rows that a walk reached; None where it is unknown which."""
    with registry.session() as session:
        found = session.lineage.walk(Version(f"p/{name}", 1), rows, direction).reached
    return {each.version.name[2:]: None if each.rows is None else each.rows.tolist() for each in found}


def test_a_row_is_traced_up_through_several_inputs(family: Registry) -> None:
    assert reached(family, "pairs", [0], "up") == {"pairs": [0], "seed": [0], "tags": [1]}
    assert reached(family, "pairs", [1, 2], "up") == {"pairs": [1, 2], "seed": [2, 3]}


def test_a_row_is_traced_down_into_models_and_their_outputs(family: Registry) -> None:
    # Row 3 is in row 2 of the pairs, which the trainer saw, so the model's answers may come from it.
    assert reached(family, "seed", [3], "down") == {
        "seed": [3], "pairs": [2], "lump": None, "model": [0], "said": None, "kept": None,
    }  # fmt: skip
    # Nothing was made from row 1.
    assert reached(family, "seed", [1], "down") == {"seed": [1]}
    # Row 2 is in two pairs, of which the trainer saw one.
    assert reached(family, "pairs", [1], "down") == {"pairs": [1], "lump": None}


def test_a_models_output_is_traced_up_to_its_training_rows(family: Registry) -> None:
    assert reached(family, "kept", [0], "up") == {
        "kept": [0], "said": [4], "tags": [1], "model": [0], "pairs": [0, 2], "seed": [0, 2, 3],
    }  # fmt: skip


def test_unknown_lineage_stays_unknown_in_later_steps(family: Registry) -> None:
    assert reached(family, "lump", [0], "up") == {"lump": [0], "pairs": None, "seed": None, "tags": None}
    with family.session() as session:
        lines = session.ask("select depth, name, row from trace('p/lump', 0)").rows
    assert lines == [(0, "p/lump", 0), (1, "p/pairs", None), (2, "p/seed", None), (2, "p/tags", None)]


def test_impact_counts_rows_and_training_exposure(family: Registry) -> None:
    with family.session() as session:
        seed = Version("p/seed", 1)
        rows = chosen_rows(session, seed, "text like '%3' or row = 0")
        assert rows.tolist() == [0, 3]
        found = {each.version.name[2:]: each for each in impact(session, seed, rows)}
        with pytest.raises(QueryError, match="condition "):
            chosen_rows(session, seed, "nope = 1")
        with pytest.raises(QueryError, match="condition "):
            chosen_rows(session, seed, "true); drop view datasets; --")
    assert {name: each.rows.tolist() for name, each in found.items()} == {
        "seed": [0, 3], "pairs": [0, 2], "lump": [], "model": [0], "said": [], "kept": [],
    }  # fmt: skip
    assert {name for name, each in found.items() if each.unclear} == {"lump", "said", "kept"}
    assert found["model"].seen == 4
    assert found["pairs"].latest


def test_functions_take_columns_and_name_a_missing_version(family: Registry) -> None:
    with family.session() as session:
        query = "select p.row, t.name, t.row from \"p/pairs\" p, trace('p/pairs@1', p.row) t where t.depth = 1 order by all"
        assert session.ask(query).rows == [
            (0, "p/seed", 0), (0, "p/tags", 1), (1, "p/seed", 2), (2, "p/seed", 2), (2, "p/seed", 3),
        ]  # fmt: skip
        assert session.ask("from trace('p/pairs', 99)").rows == []
        with pytest.raises(QueryError, match=r"named 'p/pears'. Did you mean 'p/pairs'"):
            session.ask("from trace('p/pears@1', 0)")
        assert session.ask("select depth, name from upstream('p/said')").rows == [
            (1, "p/model"), (1, "p/tags"), (2, "p/pairs"), (3, "p/seed"),
        ]  # fmt: skip


def test_a_trace_opens_only_the_files_of_its_versions(registry: Registry) -> None:
    family = build(registry)
    with family.session() as session:
        [(sha256,)] = session.ask("select sha256 from internal.side_objects where name = 'p/kept' and kind = 'lineage'").rows
        family.store.path(sha256).write_bytes(b"damaged")
        assert len(session.ask("from trace('p/said', 0)").rows) == 9
        assert len(session.ask("select * from row_lineage where child = 'p/pairs' and child_row = 0").rows) == 2
        with pytest.raises(CorruptError, match=f"{sha256}"):
            session.ask("from trace('p/kept', 0)")


@settings(max_examples=100)
@given(data=st.data())
def test_walks_find_what_a_search_over_all_edges_finds(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    store = ObjectStore(tmp_path_factory.mktemp("walk"))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    edges: set[tuple[tuple[int, int], tuple[int, int]]] = set()
    inputs, objects = [], []
    for child in range(1, len(sizes)):
        parents = data.draw(st.lists(st.integers(0, child - 1), min_size=1, max_size=2, unique=True))
        drawn = st.tuples(st.integers(0, sizes[child] - 1), st.sampled_from(range(len(parents))), st.integers(0, 4))
        own = {edge for edge in data.draw(st.sets(drawn, max_size=8)) if edge[2] < sizes[parents[edge[1]]]}
        edges |= {((child, row), (parents[place], above)) for row, place, above in own}
        inputs += [(f"v{child}", 1, f"v{parent}", 1, place, "data", False) for place, parent in enumerate(parents)]
        if own:
            objects.append((f"v{child}", 1, side_object(store, "lineage", sorted(own), side_schemas.LINEAGE).sha256))
    start = (data.draw(st.integers(0, len(sizes) - 1)), 0)
    for direction in ("up", "down"):
        known, more = set(), {start}
        while more:
            known |= more
            more = {pair[direction == "up"] for pair in edges if pair[direction == "down"] in known} - known
        found = walk(graph(inputs, objects), EdgeObjects(store), Version(f"v{start[0]}", 1), [0], direction).reached
        assert all(a.depth <= b.depth for a, b in pairwise(found))
        rows = [(int(each.version.name[1:]), row) for each in found for row in each.rows.tolist()]  # type: ignore[union-attr]
        assert sorted(rows) == sorted(known)


def test_outputs_of_another_version_with_the_same_rows_count(registry: Registry) -> None:
    build(registry)
    run = registry.catalog.begin_run("p", {})
    # A second version with the rows of the first: a step on it would be a hit, but nothing refers to it by name.
    again = made(registry, run, "seed", 4, step_key="another")
    assert again.version == 2
    with registry.session() as session:
        found = {each.version.name[2:]: each for each in impact(session, Version("p/seed", 2), np.array([3]))}
        assert {"pairs", "model", "said"} <= found.keys()
        assert found["model"].seen == 1
        assert "p/pairs" in [name for (name,) in session.ask("select name from downstream('p/seed@2')").rows]


def test_later_queries_succeed_after_a_failed_trace(family: Registry) -> None:
    with family.session() as session:
        with pytest.raises(QueryError, match="named 'p/nope'"):
            session.ask("from trace('p/nope@1', 0)")
        with pytest.raises(QueryError, match="boom"):
            session.ask("select error('boom')")
