"""Edges of lineage say the same however they are kept."""

from __future__ import annotations

import pytest

from engine.worker.edges import Edges

IN_PLACE = [(row, 1, row) for row in range(5)]


@pytest.mark.parametrize(
    ("added", "in_place"),
    [
        ([], False),
        (IN_PLACE, True),
        ([*IN_PLACE, (5, 1, 6)], False),
        ([*IN_PLACE, (5, 0, 5)], False),
        ([*IN_PLACE, (4, 1, 7)], False),
        ([*IN_PLACE, (6, 1, 6)], False),
        ([(0, 1, 1), (1, 1, 1)], False),
        ([(1, 1, 1), (2, 1, 2)], False),
        ([(0, 0, 0)], False),
    ],
)
def test_edges_are_those_that_were_added(added: list[tuple[int, int, int]], in_place: bool) -> None:
    edges = Edges(1)
    for edge in added:
        edges.add(*edge)
    assert edges.in_place is in_place
    assert len(edges) == len(added)
    assert [*edges] == added
    assert edges.parents(1) == {parent for _, number, parent in added if number == 1}
    assert [tuple(row.values()) for row in edges.table().to_pylist()] == added


def test_nothing_is_in_place_without_a_streamed_input() -> None:
    edges = Edges(None)
    edges.add(0, 0, 0)
    assert not edges.in_place
    assert [*edges] == [(0, 0, 0)]
