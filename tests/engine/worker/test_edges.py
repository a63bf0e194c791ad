"""Edges of lineage, and whether they need an object at all."""

from __future__ import annotations

import pytest

from engine.worker.edges import Edges


def rows_of(edges: Edges) -> list[tuple[int, int, int]]:
    """The edges as they are stored."""
    return [(row["child_row"], row["input"], row["parent_row"]) for row in edges.table().to_pylist()]


@pytest.mark.parametrize(
    ("streamed", "rows", "in_place"),
    [
        ([], 0, False),
        ([], 1, False),
        ([(0, 0), (1, 1), (2, 2)], 3, True),
        ([(0, 0), (1, 1), (2, 2)], 4, False),
        ([(0, 0), (1, 1), (2, 3)], 3, False),
        ([(0, 0), (1, 1), (1, 2)], 3, False),
        ([(1, 1), (2, 2), (3, 3)], 3, False),
    ],
)
def test_rows_are_in_place_if_each_came_from_its_own(streamed: list[tuple[int, int]], rows: int, in_place: bool) -> None:
    edges = Edges(1)
    for child, place in streamed:
        edges.add_streamed(child, place)
    assert edges.in_place(rows) is in_place
    assert rows_of(edges) == [(child, 1, place) for child, place in streamed]
    assert (len(edges), edges.any_streamed) == (len(streamed), bool(streamed))


def test_edges_come_in_the_order_of_their_children() -> None:
    edges = Edges(1)
    edges.add_streamed(0, 0)
    edges.add(1, 0, 7)
    edges.add(1, 1, 1)
    edges.add_streamed(2, 2)
    assert not edges.in_place(3)
    assert rows_of(edges) == [(0, 1, 0), (1, 0, 7), (1, 1, 1), (2, 1, 2)]
    assert (edges.parents(0), edges.parents(1)) == ({7}, {0, 1, 2})


def test_nothing_is_in_place_without_a_streamed_input() -> None:
    edges = Edges(None)
    edges.add(0, 0, 0)
    assert not edges.in_place(1)
    assert rows_of(edges) == [(0, 0, 0)]
