"""Compares sides: their metrics side by side, and the rows of each side with those of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.comparison.rows import Field, Matched, chosen_fields, fields_to_name, match, values_of
from engine.comparison.sides import Side, part_of, parts_in_common, sides_of
from engine.comparison.statistics import LEVEL, Difference, holm, paired_difference, unpaired_difference
from engine.errors import PipelineError
from registry import Manifest, Registry

if TYPE_CHECKING:
    import pyarrow as pa

_LOW, _HIGH = "_ci_low", "_ci_high"


@dataclass(frozen=True)
class MetricValue:
    """A metric of one side, with its own interval if the operator reported one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MetricLine:
    """A metric on all sides; None where a side does not have it."""

    metric: str
    slice: str
    values: tuple[MetricValue | None, ...]


@dataclass(frozen=True)
class Result:
    """A side against the first one, in one field.

    Args:
        field: the field.
        side: the label of the side.
        difference: the side minus the first one.
        shown: whether a difference is shown: `adjusted` is below 5 %. False with too few clusters.
        adjusted: p, adjusted by Holm for the number of sides that are compared with the first one.
        left_out: rows of the first side and of this one without a counterpart or a value.
    """

    field: str
    side: str
    difference: Difference
    shown: bool
    adjusted: float | None
    left_out: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """An output that sides have in common: its version on each side, its metrics, and the results of its rows."""

    name: str
    versions: tuple[str | None, ...]
    metrics: tuple[MetricLine, ...] = ()
    results: tuple[Result, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The sides by label, and what they have in common. `same`: outputs that are the same version on all sides."""

    sides: tuple[str, ...]
    parts: tuple[Part, ...]
    same: tuple[str, ...] = ()
    by: tuple[str, ...] = field(default=())


def compare(registry: Registry, targets: Sequence[str], *, fields: Sequence[str] = (), by: Sequence[str] = ()) -> Comparison:
    """Compare versions, runs or variants; all against the first.

    Args:
        registry: the registry with the versions.
        targets: see `sides_of`.
        fields: what to measure of rows: `NAME` of a number or boolean, or `NAME=VALUE` for the share of rows with a value.
            Without any: `verdict=correct`, `score`, booleans, and numbers with a fraction.
        by: fields that pair rows; without any, rows are paired by their source rows.

    Raises:
        QueryError: there is no such version.
        PipelineError: there is nothing to compare, or no output has such a field.
    """
    with registry.session() as session:
        sides = sides_of(targets, session, registry)
    parts: list[Part] = []
    same: list[str] = []
    failed: list[PipelineError] = []
    for name in parts_in_common(sides):
        manifests = [part_of(side, name) for side in sides]
        if len({each.version_id for each in manifests if each}) == 1:
            same.append(name)
            continue
        try:
            parts.append(_part(name, manifests, sides, registry, fields, by))
        except PipelineError as error:  # other outputs may have the fields
            failed.append(error)
            parts.append(Part(name, _refs(manifests), _metrics(manifests), notes=(str(error).replace("\n    ", "; "),)))
    if failed and not any(part.results for part in parts):
        raise failed[0]
    return Comparison(tuple(side.label for side in sides), tuple(parts), tuple(same), tuple(by))


def _part(
    name: str,
    manifests: Sequence[Manifest | None],
    sides: Sequence[Side],
    registry: Registry,
    fields: Sequence[str],
    by: Sequence[str],
) -> Part:
    first = manifests[0]
    assert first is not None
    found: list[Result] = []
    notes: list[str] = []
    for side, other in zip(sides[1:], manifests[1:], strict=True):
        if (
            other is None
            or other.version_id == first.version_id
            or first.kind != "dataset"
            or other.kind != "dataset"
            or not (first.rows and other.rows)
        ):
            continue
        chosen = chosen_fields(first, other, fields)
        if not chosen:
            others = fields_to_name(first, other)
            how = (
                f"--field {others[0]} compares a number"
                if others
                else "--field NAME=VALUE compares the share of rows with a value"
            )
            notes.append(f"{first.ref} and {other.ref} have no verdict, score, boolean or fraction in common; {how}")
            continue
        measured = _results(first, other, side.label, registry, chosen, by)
        found += [each for each in measured if fields or "=" in each.field or each.difference.differs]
        if alike := [each.field for each in measured if each not in found]:
            notes.append(f"the same in all pairs of {sides[0].label} and {side.label}: {', '.join(alike)}")
    return Part(name, _refs(manifests), _metrics(manifests), tuple(_adjusted(found)), tuple(dict.fromkeys(notes)))


def _refs(manifests: Sequence[Manifest | None]) -> tuple[str | None, ...]:
    return tuple(str(each.ref) if each else None for each in manifests)


def _results(
    first: Manifest, second: Manifest, side: str, registry: Registry, chosen: Sequence[Field], by: Sequence[str]
) -> list[Result]:
    tables = [_table(each, registry, [*{each.name: None for each in chosen}, *by]) for each in (first, second)]
    matched = match(first, second, tables, by, registry)
    return [result for each in chosen if (result := _result(each, side, tables, matched))]


def _result(what: Field, side: str, tables: Sequence[pa.Table], matched: Matched) -> Result | None:
    import numpy as np

    values = [values_of(table, what) for table in tables]
    rows, clusters = [matched.first, matched.second], [matched.first_clusters, matched.second_clusters]
    known = [~np.isnan(each[at]) for each, at in zip(values, rows, strict=True)]
    if matched.paired:
        both = np.intersect1d(clusters[0][known[0]], clusters[1][known[1]])
        known = [ok & np.isin(each, both) for each, ok in zip(clusters, known, strict=True)]
    if not all(ok.any() for ok in known):
        return None
    measured = [each[at][ok] for each, at, ok in zip(values, rows, known, strict=True)]
    grouped = [each[ok] for each, ok in zip(clusters, known, strict=True)]
    difference = (paired_difference if matched.paired else unpaired_difference)(
        measured[0], grouped[0], measured[1], grouped[1]
    )
    left_out = (len(values[0]) - len(measured[0]), len(values[1]) - len(measured[1]))
    return Result(str(what), side, difference, shown=False, adjusted=None, left_out=left_out)


def _adjusted(results: Sequence[Result]) -> list[Result]:
    """The results with what they show. The comparisons of one field are a family."""
    found = list(results)
    for name in dict.fromkeys(each.field for each in results):
        places = [place for place, each in enumerate(results) if each.field == name and each.difference.p is not None]
        for place, p in zip(places, holm([results[place].difference.p or 0.0 for place in places]), strict=True):
            found[place] = replace(results[place], adjusted=p, shown=p < LEVEL)
    return found


def _metrics(manifests: Sequence[Manifest | None]) -> tuple[MetricLine, ...]:
    """Metrics that any side has. Of those by training step, the last one."""
    by_side = [_metrics_of(each) if each else {} for each in manifests]
    keys = dict.fromkeys(key for found in by_side for key in found)
    return tuple(MetricLine(*key, tuple(found.get(key) for found in by_side)) for key in keys)


def _metrics_of(manifest: Manifest) -> Mapping[tuple[str, str], MetricValue]:
    raw = {
        (each.metric, "last step" if each.slice.startswith("step ") else each.slice): each.value for each in manifest.metrics
    }
    return {
        (metric, part): MetricValue(value, raw.get((metric + _LOW, part)), raw.get((metric + _HIGH, part)))
        for (metric, part), value in raw.items()
        if not metric.endswith((_LOW, _HIGH))
    }


def _table(manifest: Manifest, registry: Registry, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([registry.store.read_table(each.sha256, list(dict.fromkeys(columns))) for each in manifest.data])
