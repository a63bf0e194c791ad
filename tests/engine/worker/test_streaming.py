"""Inputs are read and stored in pieces, which do not show in what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.jobs.messages import Slice
from engine.packages.catalogue import catalogue
from engine.sources import ingest
from engine.spec.pipeline_spec import DatasetSpec
from engine.worker.inputs import read_slice
from registry import Registry
from registry.records import boundaries


def ingested(registry: Registry, count: int) -> ingest.Ingested:
    """A file of numbered words, read into the store."""
    Path("words.jsonl").write_text("".join(json.dumps({"text": f"word {number}"}) + "\n" for number in range(count)))
    word = catalogue().records["Word"]
    return ingest.ingest("words", DatasetSpec(type="Word", path="words.jsonl"), word, Path(), 0, registry.store)


SMALL = boundaries.Bounds(row=100, window=100, most=300)
"""Objects of at most three rows."""


@pytest.mark.parametrize(("batches", "bound"), [("BATCH_ROWS", 2), ("BATCH_BYTES", 50)])
def test_a_source_is_stored_in_objects_of_bounded_size(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, batches: str, bound: int
) -> None:
    whole = ingested(registry, 8)
    monkeypatch.setattr(boundaries, "BOUNDS", SMALL)
    pieces = ingested(registry, 8)
    assert [part.rows for part in whole.data] == [8]
    assert len(pieces.data) > 2
    assert all(0 < part.rows <= 3 for part in pieces.data)
    assert (pieces.rows, pieces.content_id) == (whole.rows, whole.content_id)
    monkeypatch.setattr(ingest, batches, bound)
    assert ingested(registry, 8).data == pieces.data


def test_a_source_with_more_rows_keeps_its_other_objects(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "BOUNDS", SMALL)
    few, more = ({part.sha256 for part in ingested(registry, count).data} for count in (50, 53))
    assert len(few) > 15
    assert len(few - more) <= 2


def test_a_slice_has_the_rows_that_it_says(registry: Registry) -> None:
    [data] = ingested(registry, 8).data
    word = catalogue().records["Word"]
    for start in range(8):
        for stop in range(start, 9):
            table = read_slice(registry.store, Slice(sha256=data.sha256, start=start, stop=stop), word)
            assert table.rows.column("text").to_pylist() == [f"word {number}" for number in range(start, stop)]
