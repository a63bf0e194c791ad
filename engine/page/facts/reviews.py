"""The facts on the pages of reviews: which reviews wait, and the row that a reviewer has to decide about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.errors import EngineError
from engine.page.sessions import Reader
from engine.reviewing.field_texts import as_text, from_text
from engine.reviewing.fitting import mismatch
from engine.reviewing.open_review import OpenReview, open_review, open_reviews
from registry import Decision
from registry.records.described import DescribedField, described
from registry.reviews.decisions import Queue, RowPlace

LONGEST_EDIT = 200_000
"""Characters of a field that can be edited on a page."""

_RECENT = 20


@dataclass(frozen=True)
class ReviewLine:
    """A review in the list of reviews, with the numbers of `Progress`."""

    queue: Queue
    rows: int
    decided: int
    needed: int
    missing: int
    people: int


@dataclass(frozen=True)
class Field:
    """A field that may be edited, and its value as text."""

    name: str
    type: str
    text: str


@dataclass(frozen=True)
class Turn:
    """A row that a reviewer is asked about.

    Args:
        row_id: the id of its content.
        place: where it is.
        values: its fields, as JSON has them.
        fields: those that may be edited here.
        mine: the reviewer's last decision about it.
        others: the number of other people who have decided about it.
    """

    row_id: str
    place: RowPlace | None
    values: Mapping[str, Any]
    fields: tuple[Field, ...]
    mine: Decision | None
    others: int


@dataclass(frozen=True)
class ReviewPage:
    """A review as one reviewer sees it.

    Args:
        turn: the row to decide about; None: none is left for this reviewer.
        left: how many rows are left for this reviewer, this one among them.
        own: how many rows this reviewer has decided about.
        recent: the reviewer's last decisions, the newest first.
    """

    line: ReviewLine
    turn: Turn | None
    left: int
    own: int
    recent: tuple[Decision, ...]


@dataclass(frozen=True)
class Given:
    """A reviewer's input: labels, a reason, and the texts of fields."""

    labels: tuple[str, ...] = ()
    reason: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)


class NotAskedError(EngineError):
    """A decision cannot be taken; the text says why."""


def review_lines(reader: Reader) -> tuple[ReviewLine, ...]:
    """All reviews, those that wait first."""
    found = [_line(each) for each in open_reviews(reader.registry)]
    return tuple(sorted(found, key=lambda each: (not each.missing, each.queue.name)))


def review_page(reader: Reader, name: str, reviewer: str, row: str = "", *, more: bool = False) -> ReviewPage:
    """A review, with the row that is next.

    Args:
        reviewer: the name of the reviewer; empty: not yet given.
        row: the row to show, if it is one of the review's.
        more: show rows also if enough are decided.
    """
    review = open_review(reader.registry, name)
    own = review.last_of(reviewer) if reviewer else {}
    turns = review.turn_of(reviewer) if reviewer and (more or review.progress.missing) else []
    chosen = row if row in review.rows and reviewer else next(iter(turns), "")
    decided = sorted((each for each in own.values() if each.row in review.rows), key=lambda each: each.at, reverse=True)
    return ReviewPage(
        _line(review),
        _turn(review, chosen, reviewer) if chosen else None,
        left=len(turns),
        own=sum(each.verdict != "skip" for each in decided),
        recent=tuple(each for each in decided if each.verdict != "skip")[:_RECENT],
    )


def decide(reader: Reader, name: str, reviewer: str, row: str, verdict: str, given: Given) -> None:
    """Store a decision durably.

    Raises:
        NotAskedError: the review does not ask about this row any more, or the decision does not fit.
        RegistryError: the registry cannot be written.
        pydantic.ValidationError: a part of the decision is not valid.
    """
    review = open_review(reader.registry, name)
    if row not in review.rows:
        raise NotAskedError("The pipeline has run again, and this row no longer needs a decision. Nothing was stored.")
    made = Decision.model_validate(
        {
            "queue": name,
            "row": row,
            "reviewer": reviewer,
            "at": dt.datetime.now(dt.UTC),
            "verdict": verdict,
            "fields": _edits(review, row, given.texts) if verdict == "edit" else {},
            "labels": [] if verdict == "skip" else list(given.labels),
            "reason": given.reason.strip(),
            "source": review.rows.place(row),
        }
    )
    if why := mismatch(made, review.queue.task, partial(review.rows.row, row)):
        raise NotAskedError(f"{why[:1].upper()}{why[1:]}. Nothing was stored.")
    reader.registry.reviews.add([made])


def undo(reader: Reader, name: str, reviewer: str, row: str) -> None:
    """Take back a reviewer's last decision about a row, so that the one before it counts again, if there is one."""
    review = open_review(reader.registry, name)
    made = [each for each in review.decisions if (each.row, each.reviewer) == (row, reviewer)]
    if not made:
        raise NotAskedError("You have not decided about this row.")
    now = dt.datetime.now(dt.UTC)
    nothing = {"verdict": "skip", "fields": {}, "labels": (), "reason": "taken back"}
    back = made[-2].model_copy(update={"at": now}) if len(made) > 1 else made[-1].model_copy(update={"at": now, **nothing})
    reader.registry.reviews.add([back])


def _line(review: OpenReview) -> ReviewLine:
    people = len({each.reviewer for made in review.progress.decisions.values() for each in made})
    return ReviewLine(review.queue, **review.progress.count(), people=people)


def _turn(review: OpenReview, row: str, reviewer: str) -> Turn:
    values = review.rows.row(row).model_dump(mode="json")
    texts = {name: as_text(values[name]) for name in review.queue.task.fields}
    return Turn(
        row,
        review.rows.place(row),
        values,
        tuple(Field(name, str(_about(review, name).type), text) for name, text in texts.items() if len(text) <= LONGEST_EDIT),
        review.last_of(reviewer).get(row),
        sum(each.reviewer != reviewer for each in review.progress.decisions.get(row, ())),
    )


def _edits(review: OpenReview, row: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The new values of those fields whose text was changed."""
    values = review.rows.row(row).model_dump(mode="json")
    found = {}
    for name, text in texts.items():
        if name not in review.queue.task.fields or _lines(text) == _lines(as_text(values[name])):
            continue
        try:
            found[name] = from_text(_lines(text), _about(review, name).type)
        except ValueError as error:
            raise NotAskedError(f"{name}: {error}. Nothing was stored.") from error
    if not found:
        raise NotAskedError("No field was changed. Approve the row to let it through as it is. Nothing was stored.")
    return found


def _about(review: OpenReview, name: str) -> DescribedField:
    found = described(review.rows.record).field(name)
    assert found is not None
    return found


def _lines(text: str) -> str:
    """A text with the line ends that the rest of the engine uses: browsers send others."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
