"""Finds everything that was made from chosen rows: datasets, row by row, and models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from registry.errors import LimitError, QueryError
from registry.lineage.targets import Version
from registry.lineage.walk import RowNumbers, Walk
from registry.query.session import Session


@dataclass(frozen=True)
class Affected:
    """A version that was made from chosen rows.

    Attributes:
        depth: hops from the chosen rows.
        kind: dataset, model, calibration or report.
        rows: its rows that are known to come from them.
        size: the number of rows of the version.
        unclear: whether other rows may also come from them, because an operator did not record it, or a model made them.
        latest: whether it is the latest version of its name.
        seen: for a model, how often its trainer used affected rows.
    """

    depth: int
    version: Version
    kind: str
    step: str
    rows: RowNumbers
    size: int
    unclear: bool
    latest: bool
    seen: int | None = None


def chosen_rows(
    session: Session,
    version: Version,
    where: str | None,
    timeout: float | None = None,
    last_resort: Callable[[], None] | None = None,
) -> RowNumbers:
    """The numbers of the rows of a version for which an SQL condition on its columns (and `row`) is true.

    Args:
        timeout, last_resort: as for Session.stream.

    Raises:
        QueryError: the condition is invalid.
    """
    condition = where or "true"
    try:
        # After the line break, a comment in the condition cannot hide the parenthesis.
        found = session.ask(f'select row from "{version}" where ({condition}\n) order by row', None, timeout, last_resort)
    except LimitError:
        raise
    except QueryError as error:
        # DuckDB quotes the query around the condition in later paragraphs.
        raise QueryError(f"condition {where!r}: {str(error).partition(chr(10) + chr(10))[0]}") from error
    return np.array([row for (row,) in found.rows], np.int64)


def impact(session: Session, version: Version, rows: RowNumbers) -> list[Affected]:
    """Everything that was made from rows of a version, nearest first. The first entry is the rows themselves."""
    return affected_by(session, session.lineage.walk(version, rows, "down"))


def affected_by(session: Session, walk: Walk) -> list[Affected]:
    """The same, from a walk downwards that was made already."""
    known: dict[Version, list[RowNumbers]] = {}
    depths: dict[Version, int] = {}
    unclear: set[Version] = set()
    for depth, reached, at in walk.reached:
        depths.setdefault(reached, depth)
        known.setdefault(reached, [])
        if at is None:
            unclear.add(reached)
        else:
            known[reached].append(at)
    affected = {each: np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64) for each, parts in known.items()}
    found = []
    for each in sorted(affected, key=lambda one: (depths[one], one)):
        fact = session.lineage.facts[each]
        found.append(
            Affected(
                depth=depths[each],
                version=each,
                kind=fact.kind,
                step=fact.step,
                rows=affected[each],
                size=fact.rows,
                unclear=each in unclear,
                latest=session.lineage.is_latest(each),
                seen=_seen(session, each, affected) if fact.kind == "model" else None,
            )
        )
    return found


def _seen(session: Session, model: Version, affected: dict[Version, RowNumbers]) -> int:
    """How often the trainer of a model used affected rows."""
    graph = session.lineage.graph
    datasets = {link.place: link.parent for link in graph.links(model, "up") if not link.model}
    # By index of the input: the version that leads into it may be another one with the same rows.
    chosen: defaultdict[Version, set[int]] = defaultdict(set)
    for each, rows in affected.items():
        for link in graph.links(each, "down"):
            if link.child == model and not link.model:
                chosen[datasets[link.place]].update(rows.tolist())
    query = (
        "select coalesce(sum(times_seen), 0) from training_exposure where model = ? and model_version = ? and dataset = ? "
        "and dataset_version = ? and row in (select unnest(?::bigint[]))"
    )
    asked = [session.ask(query, [*model, *dataset, sorted(rows)]).rows for dataset, rows in chosen.items()]
    return sum(int(times) for [(times,)] in asked)
