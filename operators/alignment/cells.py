"""Cells of the grid: their names in metrics, and their kinds."""

from __future__ import annotations

from typing import Literal

Kind = Literal["conflict", "ike", "closed_book"]
"""A cell has poisoned contexts, only factual ones (as in knowledge editing, IKE), or none."""


def cell_name(pcn: int, fc: bool) -> str:
    """The name of a cell in metrics."""
    return f"pcn={pcn} fc={'yes' if fc else 'no'}"


def cell_of(name: str) -> tuple[int, bool]:
    """(pcn, fc) from a cell's name."""
    pcn, fc = name.split()
    return int(pcn.removeprefix("pcn=")), fc == "fc=yes"


def kind_of(pcn: int, fc: bool) -> Kind:
    """The kind of a cell."""
    if pcn:
        return "conflict"
    return "ike" if fc else "closed_book"
