"""Inputs are read and stored in pieces, which do not show in what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.jobs.messages import Slice
from engine.operator.catalogue import catalogue
from engine.sources import ingest
from engine.spec.pipeline_spec import DatasetSpec
from engine.worker.inputs import read_slice
from registry import Registry


def ingested(registry: Registry, count: int) -> ingest.Ingested:
    """A file of numbered words, read into the store."""
    Path("words.jsonl").write_text("".join(json.dumps({"text": f"word {number}"}) + "\n" for number in range(count)))
    word = catalogue().records["Word"]
    return ingest.ingest("words", DatasetSpec(type="Word", path="words.jsonl"), word, Path(), 0, registry.store)


@pytest.mark.parametrize(("bound", "value"), [("CHUNK_ROWS", 3), ("CHUNK_BYTES", 50)])
def test_a_source_is_stored_in_objects_of_bounded_size(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    whole = ingested(registry, 8)
    monkeypatch.setattr(ingest, bound, value)
    pieces = ingested(registry, 8)
    assert [[part.rows for part in read.data] for read in (whole, pieces)] == [[8], [3, 3, 2]]
    assert (pieces.rows, pieces.content_id) == (whole.rows, whole.content_id)


def test_rows_that_fill_the_last_object_add_no_empty_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 4)
    assert [part.rows for part in ingested(registry, 8).data] == [4, 4]


def test_a_slice_has_the_rows_that_it_says(registry: Registry) -> None:
    [data] = ingested(registry, 8).data
    word = catalogue().records["Word"]
    for start in range(8):
        for stop in range(start, 9):
            table = read_slice(registry.root, Slice(sha256=data.sha256, start=start, stop=stop), word)
            assert table.column("text").to_pylist() == [f"word {number}" for number in range(start, stop)]
