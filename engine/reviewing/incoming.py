"""Decisions that come from a file: checked against the review and its rows, and stored all together or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from engine.errors import PipelineError, Position, Problem, did_you_mean, wrong_value
from engine.reviewing.fitting import mismatch
from engine.reviewing.open_review import OpenReview, open_review
from engine.reviewing.rows import ReviewRows, Rows
from registry import Decision, Registry, RegistryError
from registry.counted import counted
from registry.reviews.decisions import Verdict

SHOWN = 20
"""The maximum number of problems that are listed."""

VERDICTS: tuple[str, ...] = get_args(Verdict)


class Incoming(NamedTuple):
    """A decision as a file has it, with its place there; nothing is checked yet. None or absent: the file does not say."""

    place: Position
    queue: Any = None
    row: Any = None
    reviewer: Any = None
    at: Any = None
    verdict: Any = None
    fields: Any = None
    labels: Any = None
    reason: Any = None


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Args:
        review: the review after the decisions were added.
        added: decisions that were stored.
        known: decisions that were there already.
        empty: lines without a verdict.
        elsewhere: those of the added ones that are about rows of an earlier version that are not in the review now.
    """

    review: OpenReview
    added: int
    known: int
    empty: int
    elsewhere: int


def import_decisions(
    registry: Registry,
    given: Sequence[Incoming],
    problems: Iterable[Problem] = (),
    *,
    queue: str | None = None,
    reviewer: str | None = None,
) -> Imported:
    """Store the decisions of a file.

    Args:
        given: the decisions in the file.
        problems: the problems found in the file so far.
        queue: the review, if the file does not name one.
        reviewer: who decided, if the file does not name anyone.

    Raises:
        PipelineError: with everything that is wrong, each with its place; nothing was stored.
        RegistryError: the registry cannot be written; nothing was stored.
    """
    found = list(problems)
    review = open_review(registry, _only_queue(given, queue, found))
    filled = [each for each in given if each.verdict is not None]
    now = dt.datetime.now(dt.UTC)
    # Of two lines by one reviewer about one row, the later one counts.
    made = [
        (each.place, _decision(each, review, reviewer, now + dt.timedelta(microseconds=number), found))
        for number, each in enumerate(filled)
    ]
    decisions = [(place, each) for place, each in made if each]
    rows = _with_earlier(registry, review, {each.row for _, each in decisions})
    for place, each in decisions:
        if each.row not in rows:
            what = f"no version of {' or '.join(sorted({ref.name for ref in review.queue.inputs}))} has the row {each.row}"
            found.append(Problem(what, place, "was the file exported from another registry, or was its version removed?"))
        elif why := mismatch(each, review.queue.task, partial(rows.row, each.row)):
            found.append(Problem(why, place))
    if found:
        more = [Problem(f"... and {counted(len(found) - SHOWN, 'more problem')}")] if len(found) > SHOWN else []
        raise PipelineError([*sorted(found, key=_where)[:SHOWN], *more])
    timed = {each.place for each in filled if each.at}
    is_known = _known_to(review)
    new = {each.digest: each for place, each in decisions if not is_known(each, place in timed)}
    registry.reviews.add([each.model_copy(update={"source": rows.place(each.row)}) for each in new.values()])
    return Imported(
        open_review(registry, review.queue.name),
        added=len(new),
        known=len(decisions) - len(new),
        empty=len(given) - len(filled),
        elsewhere=sum(each.row not in review.rows for each in new.values()),
    )


def _known_to(review: OpenReview) -> Callable[[Decision, bool], bool]:
    """Whether a decision is already stored: the same one, or, if the file has no time, an equal one as the reviewer's last."""
    digests = {each.digest for each in review.decisions}
    last = {(each.row, each.reviewer): each for each in review.decisions}

    def is_known(decision: Decision, timed: bool) -> bool:
        if timed:
            return decision.digest in digests
        before = last.get((decision.row, decision.reviewer))
        return before is not None and before.substance == decision.substance

    return is_known


def _only_queue(given: Sequence[Incoming], queue: str | None, problems: list[Problem]) -> str:
    """The review that a file is about; raises PipelineError unless there is one."""
    named: dict[str, Position] = {}
    for each in given:
        if isinstance(each.queue, str):
            named.setdefault(each.queue, each.place)
        elif each.queue is not None:
            problems.append(Problem("queue must be text", each.place))
    if len(named) > 1 or (queue and named and queue not in named):
        other = next(name for name in named if name != (queue or next(iter(named))))
        first = queue or next(iter(named))
        raise PipelineError(
            [Problem(f"this decision belongs to {other}, not to {first}", named[other], "import one review at a time")]
        )
    if not named and not queue:
        where = given[0].place if given else None
        raise PipelineError([*problems, Problem("the file names no review", where, "name it: --review REVIEW")])
    return queue or next(iter(named))


def _decision(
    given: Incoming, review: OpenReview, reviewer: str | None, now: dt.datetime, problems: list[Problem]
) -> Decision | None:
    """A decision with valid parts; None, and what is wrong, otherwise."""
    if given.verdict not in VERDICTS:
        hint = did_you_mean(str(given.verdict), VERDICTS)
        problems.append(Problem(f"there is no verdict {given.verdict!r:.100}", given.place, hint))
        return None
    who = given.reviewer if given.reviewer is not None else reviewer
    if who is None:
        problems.append(Problem("the reviewer is missing", given.place, "write `reviewer`, or give --reviewer NAME"))
        return None
    about = {"queue": review.queue.name, "row": given.row, "reviewer": who, "at": given.at or now, "verdict": given.verdict}
    more = {"fields": given.fields, "labels": given.labels, "reason": given.reason}
    try:
        return Decision.model_validate({**about, **{name: value for name, value in more.items() if value is not None}})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            where = ".".join(map(str, each["loc"]))
            text = "must be the id of a row, 64 hex digits" if where == "row" else wrong_value(each)
            problems.append(Problem(f"{where}: {text}", given.place))
        return None


def _with_earlier(registry: Registry, review: OpenReview, wanted: set[str]) -> ReviewRows:
    """The rows of a review and, if some are wanted that are not among them, those of earlier versions of its inputs."""
    rows = review.rows
    if all(row in rows for row in wanted):
        return rows
    with registry.session() as session:
        names = sorted({ref.name for ref in review.queue.inputs})
        asked = "select name, version from versions where list_contains(?, name) order by version desc"
        numbers = session.ask(asked, [names]).rows
    versions = [Rows(each.ref, each.data) for each in (registry.manifest(name, version) for name, version in numbers)]
    kept = []
    for each in versions:
        try:
            ReviewRows.of(registry.store, [each], rows.record)
        except (RegistryError, ValidationError):
            continue  # rows of another type, in which none of today's can be
        kept.append(each)
    return ReviewRows.of(registry.store, kept, rows.record)


def _where(problem: Problem) -> tuple[bool, Position]:
    return problem.position is None, problem.position or Position("", 0, 0)
