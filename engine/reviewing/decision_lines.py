"""Decisions as JSON Lines: one line for each decision, and one without a verdict for each row that waits.

A line that is to be filled in has the row's fields under `content`; `verdict`, `reviewer`, `fields`, `labels` and `reason` are
what people write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import PipelineError, Position, Problem, did_you_mean
from engine.reviewing.incoming import Incoming
from engine.reviewing.open_review import OpenReview
from registry import Decision

_KEYS = ("queue", "row", "reviewer", "at", "verdict", "fields", "labels", "reason", "seen_at", "content")


def lines_of(review: OpenReview) -> Iterator[dict[str, Any]]:
    """All decisions of a review, those that were replaced too, by time; then the rows that wait, to be filled in."""
    for each in review.decisions:
        yield _line(each, review)
    for row in review.undecided():
        place = review.rows.place(row)
        empty: dict[str, Any] = {"reviewer": None, "verdict": None, "fields": {}, "labels": [], "reason": ""}
        head = {"queue": review.queue.name, "row": row, **empty, "seen_at": str(place) if place else None}
        yield head | {"content": content_of(review, row)}


def content_of(review: OpenReview, row: str) -> dict[str, Any]:
    """The fields of a row as JSON."""
    fields: dict[str, Any] = review.rows.row(row).model_dump(mode="json")
    return fields


def _line(each: Decision, review: OpenReview) -> dict[str, Any]:
    made = each.model_dump(mode="json", exclude={"source"})
    made |= {"labels": list(each.labels), "seen_at": str(each.source) if each.source else None}
    return made | ({"content": content_of(review, each.row)} if each.row in review.rows else {})


def read_lines(file: Path) -> tuple[list[Incoming], list[Problem]]:
    """What a file of decisions says, line by line, and what is wrong with it. Lines without a verdict decide nothing."""
    found, problems = [], []
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError([Problem(f"{file} is not UTF-8: {error.reason}")]) from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = Position(str(file), number, 1)
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = error.colno if isinstance(error, json.JSONDecodeError) else 1
            problems.append(Problem("this line is not JSON", Position(str(file), number, column), str(error)))
            continue
        if not isinstance(document, dict):
            problems.append(Problem("this line is not a JSON object", place))
            continue
        for key in document.keys() - set(_KEYS):
            problems.append(Problem(f"a decision has no key {key!r}", place, did_you_mean(key, _KEYS)))
        known = {key: document.get(key) for key in _KEYS if key not in ("seen_at", "content")}
        found.append(Incoming(place, **known))
    return found, problems
