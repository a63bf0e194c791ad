"""Writes the rows of a version as tasks for Label Studio, with the decisions that reviewers have made about them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from engine.errors import PipelineError, Problem
from engine.export.card import Data
from engine.reviewing.files import LABEL_STUDIO
from engine.reviewing.label_studio import interface, tasks_of
from engine.reviewing.open_review import reading
from engine.reviewing.progress import progress_of
from engine.reviewing.rows import ReviewRows, Rows
from registry import Manifest, Registry, ReviewTask
from registry.records.schema import described_fields

TASKS, INTERFACE = "tasks.json", "interface.xml"


def write(registry: Registry, manifest: Manifest, folder: Path) -> Data:
    """Write tasks and the labelling interface into a folder. Tasks name the review that asks about the rows, if one does.

    Raises:
        PipelineError: several reviews ask about rows of this name, or the version has no rows.
    """
    if manifest.kind != "dataset":
        raise PipelineError([Problem(f"{manifest.ref} is a {manifest.kind}, and has no rows to review")])
    queues = reading(registry.reviews.queues(), manifest.name)
    if len(queues) > 1:
        names = ", ".join(each.name for each in queues)
        hint = "choose one: engine reviews export REVIEW FILE --to label-studio"
        raise PipelineError([Problem(f"several reviews ask about rows of {manifest.name}: {names}", hint=hint)])
    [about] = [each.type for each in queues] or [described_fields(manifest.type, manifest.fields)]
    [task] = [each.task for each in queues] or [ReviewTask(fields=tuple(manifest.fields))]
    name = queues[0].name if queues else ""
    rows = ReviewRows.of(registry.store, [Rows(manifest.ref, manifest.data)], about.record())
    made = progress_of(task, rows, registry.reviews.decisions(name)).decisions if queues else {}
    tasks = list(tasks_of(((row, rows.row(row)) for row in rows), name, made))
    file = folder / TASKS
    file.write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / INTERFACE).write_text(interface(rows.record, task), encoding="utf-8")
    return Data(pa.schema([]), TASKS, file.stat().st_size, LABEL_STUDIO)
