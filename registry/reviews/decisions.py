"""Decisions of people about rows, and what a review asks them, as frozen data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from registry.catalog.manifest import Frozen, Moment, Name, VersionRef
from registry.records.described import Described
from registry.storage.checked_json import canonical_json, json_digest
from registry.storage.ids import RunId, Sha256
from registry.storage.valid_text import valid

LONGEST_NAME = 100
"""The maximum length of a reviewer's name, in characters."""

Verdict = Literal["approve", "reject", "edit", "skip"]
"""`skip` decides nothing: the row stays for others, and what the same reviewer decided before no longer counts."""


def _a_reviewer(text: str) -> str:
    name = valid(text).strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"give a name of 1 to {LONGEST_NAME} printable characters")
    return name


def _storable(fields: dict[str, Any]) -> dict[str, Any]:
    canonical_json(fields)  # neither NaN nor unpaired surrogates
    return fields


class RowPlace(Frozen):
    """A row of a version."""

    name: Name
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    row: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        return f"{self.name}@{self.version} row {self.row}"


class Decision(Frozen):
    """What a reviewer decided about the content of a row. It holds for all rows with this content.

    Args:
        queue: the review, by the name of the dataset that its step makes.
        row: the id of the row's content, see registry.records.content.row_ids.
        at: the time of the decision. A later decision of the same reviewer about the same row replaces it.
        fields: the new values of edited fields, as JSON.
        source: the place where the reviewer saw the row.
    """

    queue: Name
    row: Sha256
    reviewer: Annotated[str, AfterValidator(_a_reviewer)]
    at: Moment
    verdict: Verdict
    fields: Annotated[dict[str, Any], AfterValidator(_storable)] = {}
    labels: tuple[Annotated[str, AfterValidator(valid)], ...] = ()
    reason: Annotated[str, AfterValidator(valid)] = ""
    source: RowPlace | None = None

    @property
    def accepts(self) -> bool:
        """Whether the row is to come out, as it is or edited."""
        return self.verdict in ("approve", "edit")

    @property
    def substance(self) -> list[Any]:
        """The content of the decision, without its time and the place where the row was seen: step keys depend on this."""
        return [self.row, self.reviewer, self.verdict, self.fields, list(self.labels), self.reason]

    @cached_property
    def digest(self) -> str:
        """Its identity: what was decided, by whom and when, wherever the row was seen."""
        return json_digest(self.model_dump(mode="json", exclude={"source"}))


class ReviewTask(Frozen):
    """What people are asked about each row of a review.

    Args:
        instructions: the instructions for the reviewers, in Markdown.
        labels: the labels that they choose from.
        choice: whether a row gets one label, or any number of labels.
        label_field: the field of the row that takes the label or the list of labels; None: labels stay with the decisions.
        fields: the fields that may be edited.
        n: the review is done when this many rows are decided.
        share: the same, as a part of all rows. Without both, all rows have to be decided.
        reviewers: the number of people who have to decide about a row.
    """

    instructions: str = ""
    labels: tuple[str, ...] = ()
    choice: Literal["single", "multiple"] = "single"
    label_field: str | None = None
    fields: tuple[str, ...] = ()
    n: int | None = None
    share: float | None = None
    reviewers: int = 1


class Queue(Frozen):
    """A review that a run reached: what it asks about which rows.

    Args:
        name: the name of the dataset that the review's step makes.
        pipeline, step: the names of the pipeline and the step; the step with its variant.
        file: the name of the pipeline file.
        run_id: the run that reached the review.
        asked_at: the time when the run reached it.
        inputs: the versions with the rows.
        type: the type of the rows: its name, and a description, by which rows are read without the pipeline's code.
    """

    name: Name
    pipeline: str
    step: str
    file: str
    run_id: RunId
    asked_at: Moment
    inputs: tuple[VersionRef, ...]
    type: Described
    task: ReviewTask


def current(decisions: Iterable[Decision]) -> dict[str, tuple[Decision, ...]]:
    """The decisions that count, by row and in the order of the reviewers' names: the last one of each reviewer, if it decides.

    Of two with the same time, the one with the larger digest is the later one, so the order in which they come does not matter.
    """
    last: dict[tuple[str, str], Decision] = {}
    for each in decisions:
        key = (each.row, each.reviewer)
        if key not in last or (last[key].at, last[key].digest) < (each.at, each.digest):
            last[key] = each
    found: defaultdict[str, list[Decision]] = defaultdict(list)
    for key in sorted(last):
        if last[key].verdict != "skip":
            found[key[0]].append(last[key])
    return {row: tuple(each) for row, each in found.items()}


def by_queue(decisions: Iterable[Decision]) -> Mapping[str, Sequence[Decision]]:
    """Decisions by the review that they belong to."""
    found: defaultdict[str, list[Decision]] = defaultdict(list)
    for each in decisions:
        found[each.queue].append(each)
    return found
