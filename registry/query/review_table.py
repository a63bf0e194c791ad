"""The decisions of reviews as a table, for the SQL view `reviews`."""

from __future__ import annotations

import pyarrow as pa

from registry.reviews.decisions import Decision, by_queue, current
from registry.reviews.store import ReviewStore
from registry.storage.checked_json import canonical_json

SCHEMA = pa.schema(
    [
        ("queue", pa.string()),
        ("row_id", pa.string()),
        ("reviewer", pa.string()),
        ("decided_at", pa.timestamp("us")),
        ("verdict", pa.string()),
        ("fields", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("counts", pa.bool_()),
        ("name", pa.string()),
        ("version", pa.int32()),
        ("row", pa.int64()),
    ]
)


def review_table(store: ReviewStore) -> pa.Table:
    """All decisions, by review and time; raises CorruptError when a file is damaged."""
    rows = []
    for _, made in sorted(by_queue(store.decisions()).items()):
        counting = {each.digest for of in current(made).values() for each in of}
        rows += [_row(each, each.digest in counting) for each in made]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(each: Decision, counts: bool) -> dict[str, object]:
    place = each.source
    return {
        "queue": each.queue,
        "row_id": each.row,
        "reviewer": each.reviewer,
        "decided_at": each.at.replace(tzinfo=None),
        "verdict": each.verdict,
        "fields": canonical_json(each.fields).decode() if each.fields else None,
        "labels": list(each.labels),
        "reason": each.reason or None,
        "counts": counts,
        "name": place.name if place else None,
        "version": place.version if place else None,
        "row": place.row if place else None,
    }
