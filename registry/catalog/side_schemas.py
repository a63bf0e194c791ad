"""The schemas of side objects: row lineage, model calls, rejected rows, rows that a trainer saw."""

from __future__ import annotations

import pyarrow as pa

LINEAGE = pa.schema([("child_row", pa.int64()), ("input", pa.int16()), ("parent_row", pa.int64())])
"""Row `child_row` came from row `parent_row` of the manifest's input number `input`."""

CALLS = pa.schema(
    [
        ("local_row", pa.int64()),
        ("call_id", pa.string()),
        ("role", pa.string()),
        ("model", pa.string()),
        ("prompt", pa.large_string()),
        ("response", pa.large_string()),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
        ("latency_ms", pa.float64()),
        ("cost_usd", pa.float64()),
        ("reasoning", pa.large_string()),
        ("finish_reason", pa.string()),
        ("tokens_cached", pa.int64()),
        ("tokens_reasoning", pa.int64()),
        ("tool_calls", pa.large_string()),
        ("served_by", pa.string()),
    ]
)
"""A model call and a row that it helped to make (null: it made no row). `prompt` is the messages as JSON, `tool_calls` a list
of objects as JSON (null: none). Versions from before 0.4 lack the columns after `cost_usd`, which are null then."""

REJECTS = pa.schema([("input", pa.int16()), ("parent_row", pa.int64()), ("reason", pa.large_string())])
"""A row of input `input` that a step, or a source, did not accept."""

EXPOSURE = pa.schema([("input", pa.int16()), ("parent_row", pa.int64()), ("times_seen", pa.int64())])
"""How often a trainer used row `parent_row` of input `input`."""
