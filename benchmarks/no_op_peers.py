"""Other programs that pass rows on three times, from `items.parquet` in the working folder: see benchmarks/rows.py."""

from __future__ import annotations

import os
from typing import Any

_STEPS = 3


def ray_data_batches() -> None:
    """Three `map_batches` of Ray Data, between Parquet files; Ray Data fuses them."""
    data = _read()
    for _ in range(_STEPS):
        data = data.map_batches(_same, batch_format="pyarrow")
    data.write_parquet("out")


def ray_data_rows() -> None:
    """The same with `map`, which calls a function for each row, as row operators are called."""
    data = _read()
    for _ in range(_STEPS):
        data = data.map(_same)
    data.write_parquet("out")


def duckdb_tables() -> None:
    """Three tables, each from the one before, in a database on disk."""
    import duckdb

    with duckdb.connect("items.duckdb") as database:
        database.execute("create table t0 as select * from 'items.parquet'")
        for step in range(_STEPS):
            database.execute(f"create table t{step + 1} as select * from t{step}")


def _read() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.read_parquet("items.parquet")


def _same(batch: Any) -> Any:
    return batch
