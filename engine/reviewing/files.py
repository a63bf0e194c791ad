"""Files with decisions: which format they are in, and how they are written, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from engine.errors import PipelineError, Problem
from engine.reviewing import decision_lines, label_studio
from engine.reviewing.incoming import Incoming
from engine.reviewing.open_review import OpenReview
from registry import Record, Registry
from registry.storage.files import durable_write

LABEL_STUDIO = "label-studio"


def read_file(registry: Registry, file: Path, format: str) -> tuple[list[Incoming], list[Problem]]:
    """What a file with decisions says, and what is wrong with it; raises PipelineError if it cannot be read at all."""
    if not file.is_file():
        raise PipelineError([Problem(f"there is no file {file}")])
    if format != LABEL_STUDIO:
        return decision_lines.read_lines(file)

    def type_of(queue: str) -> type[Record] | None:
        found = registry.reviews.queue(queue)
        return found.type.record() if found else None

    return label_studio.read_export(file, type_of)


def write_lines(review: OpenReview, file: Path, *, overwrite: bool) -> int:
    """Write a review as JSON Lines; returns the number of lines."""
    lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in decision_lines.lines_of(review)]
    _write(file, "".join(lines), overwrite=overwrite)
    return len(lines)


def write_tasks(review: OpenReview, file: Path, *, overwrite: bool) -> Path:
    """Write a review as tasks for Label Studio, and the labelling interface beside them; returns its file."""
    rows = ((row, review.rows.row(row)) for row in review.order)
    tasks = label_studio.tasks_of(rows, review.queue.name, review.progress.decisions)
    beside = file.with_suffix(".xml")
    _write(file, json.dumps(list(tasks), ensure_ascii=False, indent=1) + "\n", overwrite=overwrite)
    _write(beside, label_studio.interface(review.rows.record, review.queue.task), overwrite=overwrite)
    return beside


def _write(file: Path, text: str, *, overwrite: bool) -> None:
    if file.exists() and not (overwrite and file.is_file()):
        hint = "use --overwrite to replace it" if file.is_file() else "choose another name"
        raise PipelineError([Problem(f"{file} exists already", hint=hint)])
    durable_write(file, text.encode())
