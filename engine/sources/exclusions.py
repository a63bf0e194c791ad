"""Exclusion lists: rows to leave out of every run, named by their dataset and their content.

`engine impact --takedown FILE` writes one, and `exclude: FILE` in a pipeline applies it. Because a row is
named by its content, it is also left out if it moves to another place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.errors import EngineError
from engine.sources.files.readers import load_json
from registry.storage.checked_json import json_digest
from registry.storage.files import durable_write
from registry.storage.valid_text import valid

Exclusions = Mapping[str, frozenset[str]]
"""Ids of rows (see registry.records.content.row_ids) by dataset."""

EXCLUDED = "left out because it is on the exclusion list"
"""The reason of an excluded row in `rejects`."""


class Entry(BaseModel):
    """A line of an exclusion list; `seen_at` is only for human readers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Annotated[str, AfterValidator(valid)]
    row_id: str = Field(pattern="^[0-9a-f]{64}$")
    seen_at: Annotated[str, AfterValidator(valid)] = ""


def read_exclusions(file: str, base_dir: Path) -> Exclusions:
    """Read a list, from the working folder or else from the pipeline's folder.

    Raises:
        EngineError: the file does not exist, or one of its lines is invalid.
    """
    found = next((folder / file for folder in (Path(), base_dir) if (folder / file).is_file()), None)
    if found is None:
        raise EngineError(f"there is no exclusion list {file}; `engine impact NAME@V --where ... --takedown {file}` writes one")
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for entry in _entries(found):
        ids[entry.dataset].add(entry.row_id)
    return {name: frozenset(each) for name, each in ids.items()}


def add_to_list(file: Path, entries: Iterable[Entry]) -> int:
    """Append entries to a list; returns how many were new.

    Raises:
        EngineError: the file exists and is not an exclusion list.
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
    """The digest of a set of row ids, for step keys."""
    return json_digest(sorted(ids))


MAX_LINE_BYTES = 1 << 16
"""The longest line of a list; most have about 150 bytes."""


def _entries(file: Path) -> list[Entry]:
    try:
        with file.open("rb") as content:
            return list(_read(file, content))
    except OSError as error:
        raise EngineError(f"cannot read the exclusion list {file}: {error.strerror or error}") from error


def _read(file: Path, content: IO[bytes]) -> Iterator[Entry]:
    number = 0
    while line := content.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not line.strip() and len(line) <= MAX_LINE_BYTES:
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError("too long")
            yield Entry.model_validate(load_json(line.decode("utf-8-sig" if number == 1 else "utf-8")))
        except (ValueError, RecursionError):  # also pydantic's ValidationError
            raise EngineError(
                f'{file}:{number}: not a line of an exclusion list. A line is {{"dataset": "pipeline/dataset", "row_id": '
                '"<64 hex digits>"}; `engine impact ... --takedown` writes such lists'
            ) from None
