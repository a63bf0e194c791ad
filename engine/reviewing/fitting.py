"""Whether a decision fits the row it is about, and what its review asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from engine.errors import did_you_mean, wrong_value
from engine.operator.templates.row_templates import plain
from registry import Decision, Record, ReviewTask


def mismatch(decision: Decision, task: ReviewTask, row: Callable[[], Record]) -> str | None:
    """Why a decision does not fit; None if it does. Decisions that do not fit do not count, and their rows are asked again.

    Args:
        row: reads the row, which only new values have to be compared with.
    """
    if why := _labels(decision, task):
        return why
    if decision.verdict != "edit":
        return f"fields: only the verdict edit has new values, not {decision.verdict}" if decision.fields else None
    return _fields(decision, task, row())


def _labels(decision: Decision, task: ReviewTask) -> str | None:
    for label in decision.labels:
        if label not in task.labels:
            hint = did_you_mean(label, task.labels) or "this review has no labels"
            return f"labels: there is no label {label!r}; {hint}"
    if len(set(decision.labels)) < len(decision.labels):
        return "labels: a label is listed twice"
    if task.choice == "single" and len(decision.labels) > 1:
        return f"labels: a row gets one label, not {len(decision.labels)}"
    if decision.accepts and task.label_field and task.choice == "single" and not decision.labels:
        return f"labels: a row that comes out needs a label: {', '.join(task.labels)}"
    return None


def _fields(decision: Decision, task: ReviewTask, row: Record) -> str | None:
    if not decision.fields:
        return "fields: the verdict edit needs new values of fields"
    for name in decision.fields:
        if name not in task.fields:
            known = name in type(row).model_fields
            why = "may not be edited" if known else "does not exist"
            return f"fields: field {name!r} {why}; {did_you_mean(name, task.fields) or 'no field may be edited'}"
    try:
        edited(row, decision.fields)
    except ValidationError as error:
        return "; ".join(
            f"fields.{'.'.join(map(str, each['loc'])) or 'row'}: {wrong_value(each)}"
            for each in error.errors(include_url=False)
        )
    return None


def edited(row: Record, fields: Mapping[str, Any]) -> Record:
    """A row with new values of some fields; raises pydantic.ValidationError if they do not fit its type."""
    return type(row).model_validate(plain(row) | dict(fields), by_name=True, by_alias=False)
