"""Exclusion lists: rows that must not come back, by the dataset they stand in and what they say.

`engine impact --takedown FILE` writes one, `exclude: FILE` in a pipeline obeys it. A row is named by its content, so it is
left out wherever it stands in the next version, too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.problems import EngineError
from registry.store import durable_write, json_digest

Exclusions = Mapping[str, frozenset[str]]
"""Ids of rows (see registry.content.row_ids) by the dataset they stand in."""

EXCLUDED = "left out, as the exclusion list says"
"""The reason of an excluded row in `rejects`."""


class Entry(BaseModel):
    """A line of an exclusion list; `seen_at` is for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    row_id: str = Field(pattern="^[0-9a-f]{64}$")
    seen_at: str = ""


def read_exclusions(file: str, beside: Path) -> Exclusions:
    """Read a list; it is looked up where the user stands, then beside the pipeline.

    Raises:
        EngineError: the file is not there, or a line of it is wrong.
    """
    found = next((folder / file for folder in (Path(), beside) if (folder / file).is_file()), None)
    if found is None:
        raise EngineError(
            f"there is no exclusion list {file} (`engine impact NAME@V --where ... --takedown {file}` writes one)"
        )
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for entry in _entries(found):
        ids[entry.dataset].add(entry.row_id)
    return {name: frozenset(each) for name, each in ids.items()}


def add_to_list(file: Path, entries: Iterable[Entry]) -> int:
    """Write entries to a list, after those that it has; returns how many were new.

    Raises:
        EngineError: the file is there and is no exclusion list.
    """
    before = _entries(file) if file.exists() else []
    known = {(entry.dataset, entry.row_id) for entry in before}
    new = []
    for entry in entries:
        if (entry.dataset, entry.row_id) not in known:
            known.add((entry.dataset, entry.row_id))
            new.append(entry)
    durable_write(file.absolute(), "".join(f"{entry.model_dump_json()}\n" for entry in [*before, *new]).encode())
    return len(new)


def digest(ids: Iterable[str]) -> str:
    """What stands for a set of row ids in a step key."""
    return json_digest(sorted(ids))


def _entries(file: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entries.append(Entry.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            raise EngineError(
                f'{file}:{number}: not a line of an exclusion list; one is {{"dataset": "pipeline/dataset", "row_id": "<64 hex '
                'digits>"} and `engine impact ... --takedown` writes them'
            ) from None
    return entries
