"""Datasets of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.errors import EngineError
from engine.sources.arrow_rows import ArrowRows


def load(name: str, split: str) -> Any:
    """A dataset of the hub, downloaded.

    Raises:
        EngineError: it cannot be loaded.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        raise EngineError(f"cannot load {name!r} (split {split!r}) from the hub: {type(error).__name__}: {error}") from error


def rows_of(loaded: Any, name: str, wanted: frozenset[str], at_once: int = 1024) -> Iterator[ArrowRows]:
    """The rows of a loaded dataset; `name` is what it is called in errors."""
    unread = frozenset(loaded.column_names) - wanted
    first = 1
    for table in loaded.remove_columns(sorted(unread)).with_format("arrow").iter(batch_size=at_once):
        yield ArrowRows(table, name, first, unread)
        first += table.num_rows
