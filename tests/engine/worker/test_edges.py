"""Edges of lineage, and whether they need an object at all."""

from __future__ import annotations

import pytest

from engine.worker.edges import Edges


def rows_of(edges: Edges) -> list[tuple[int, int, int]]:
    """The edges as they are stored."""
    return [(row["child_row"], row["input"], row["parent_row"]) for row in edges.table().to_pylist()]


@pytest.mark.parametrize(
    ("places", "rows", "in_place"),
    [([], 0, False), ([0, 1, 2], 3, True), ([0, 1, 3], 3, False), ([0, 0, 1], 3, False), ([1, 2], 2, False)],
)
def test_rows_are_in_place_if_each_came_from_its_own(places: list[int], rows: int, in_place: bool) -> None:
    edges = Edges(1)
    edges.places.extend(places)
    assert edges.in_place(rows) is in_place
    assert rows_of(edges) == [(child, 1, place) for child, place in enumerate(places)]
    assert len(edges) == len(places)


def test_edges_come_in_the_order_of_their_children() -> None:
    edges = Edges(1)
    edges.places.append(0)  # of row 0
    edges.add(1, 0, 7)
    edges.add(1, 1, 1)
    edges.places.append(2)  # of row 2
    edges.add(3, 1, 3)
    assert not edges.in_place(4)
    assert rows_of(edges) == [(0, 1, 0), (1, 0, 7), (1, 1, 1), (2, 1, 2), (3, 1, 3)]
    assert (edges.parents(0).tolist(), edges.parents(1).tolist()) == ([7], [0, 1, 2, 3])


def test_rows_may_have_no_edges_where_none_came_from_a_streamed_row() -> None:
    edges = Edges(None)
    edges.add(0, 0, 5)
    edges.add(2, 0, 0)
    assert not edges.in_place(3)
    assert rows_of(edges) == [(0, 0, 5), (2, 0, 0)]
