"""Combines the decisions about a row: whether it comes out, and with which values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from registry.reviews.decisions import Decision
from registry.storage.checked_json import canonical_json


@dataclass(frozen=True)
class Outcome:
    """The fate of a row: it comes out with new values of some fields and with labels, or it is rejected with a reason."""

    accepted: bool
    fields: dict[str, Any]
    labels: tuple[str, ...]
    reason: str


def outcome_of(decisions: Sequence[Decision], reviewers: int) -> Outcome | None:
    """The outcome of the current decisions about one row; None while it is undecided.

    A row is decided when as many people as the review asks for have decided. The majority verdict wins; if the row comes
    out, it gets the values and labels of the majority of those who let it. If there is a tie, it stays undecided until one more
    person decides or one of them decides otherwise. So neither the order of the decisions nor their times matter.

    Args:
        decisions: the decisions about one row; see `current`.
        reviewers: the number of reviewers that the review asks for.
    """
    if len(decisions) < reviewers:
        return None
    verdict = _most([(each.accepts, each) for each in decisions])
    if verdict is None:
        return None
    if not verdict[0].accepts:
        return Outcome(False, {}, (), "; ".join(_reasons(verdict)))
    values = _most([(canonical_json([each.fields, sorted(each.labels)]), each) for each in verdict])
    if values is None:
        return None
    return Outcome(True, values[0].fields, tuple(sorted(values[0].labels)), "")


def _most(votes: Iterable[tuple[object, Decision]]) -> list[Decision] | None:
    """The decisions that say what most of them say; None if there is a tie."""
    by_vote: defaultdict[object, list[Decision]] = defaultdict(list)
    for vote, each in votes:
        by_vote[vote].append(each)
    first, *others = sorted(by_vote.values(), key=len, reverse=True)
    return None if others and len(others[0]) == len(first) else first


def _reasons(decisions: Iterable[Decision]) -> list[str]:
    """The different reasons, in alphabetical order; reviewers who gave none are named."""
    given = {each.reason.strip() or f"rejected by {each.reviewer}" for each in decisions}
    spoken = {each.reason.strip() for each in decisions} - {""}
    return sorted(spoken or given)
