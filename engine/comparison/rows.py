"""Pairs the rows of two versions: by the source rows that they were made from, or by the content of key fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import PipelineError, Problem, did_you_mean
from engine.planning.inputs import version_of
from engine.planning.row_groups import row_groups
from registry import Manifest, Registry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Clusters = NDArray[np.int64]
    Values = NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """A measure of a row: a number or boolean, or whether a text field has a value."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True)
class Matched:
    """Which rows of two versions are compared, and their clusters; `paired` is false if no rows correspond."""

    first: Clusters
    first_clusters: Clusters
    second: Clusters
    second_clusters: Clusters
    paired: bool


_SCORE = ("score", "int")
"""The field that `judge` makes; other whole numbers may be counts or ids."""


def chosen_fields(first: Manifest, second: Manifest, asked: Sequence[str]) -> list[Field]:
    """The fields to compare: those that were asked for, or else verdicts, scores, booleans and numbers with a fraction.

    Raises:
        PipelineError: a version lacks a field that was asked for, or it cannot be measured.
    """
    shared = {name: label.removesuffix("?") for name, label in first.fields.items() if name in second.fields}
    if not asked:
        found = [Field(name) for name, label in shared.items() if label in ("bool", "float") or (name, label) == _SCORE]
        return [*([Field("verdict", "correct")] if shared.get("verdict") == "str" else []), *found]
    fields = []
    for text in asked:
        name, equals, value = text.partition("=")
        if name not in shared:
            lacking = second if name in first.fields else first
            raise PipelineError([Problem(f"{lacking.ref} has no field {name!r}", hint=did_you_mean(name, shared))])
        if not equals and shared[name] not in ("bool", "float", "int"):
            hint = f"name a value, for example --field {name}=correct: then the share of rows with it is compared"
            raise PipelineError([Problem(f"the field {name} is {shared[name]}, not a number or a boolean", hint=hint)])
        fields.append(Field(name, value if equals else None))
    return fields


def fields_to_name(first: Manifest, second: Manifest) -> list[str]:
    """The fields that a user could ask for: the numbers and booleans of both versions."""
    return [
        name
        for name, label in first.fields.items()
        if name in second.fields and label.removesuffix("?") in ("bool", "float", "int")
    ]


def values_of(table: pa.Table, field: Field) -> Values:
    """A number for each row; NaN where there is no value."""
    import numpy as np

    column = table[field.name].to_pylist()
    if field.value is None:
        return np.asarray([np.nan if each is None else float(each) for each in column])
    return np.asarray([np.nan if each is None else float(_shown(each) == field.value) for each in column])


def match(first: Manifest, second: Manifest, tables: Sequence[pa.Table], by: Sequence[str], registry: Registry) -> Matched:
    """The rows that correspond.

    Args:
        tables: the rows of the versions.
        by: fields with equal content in corresponding rows; without any, rows with the same source row correspond.
    """
    import numpy as np

    groups = np.asarray(row_groups([version_of(first), version_of(second)], registry, same_sources=True), np.int64)
    own, other = groups[: first.rows], groups[first.rows :]
    keys = own, other
    if by:
        for manifest in (first, second):
            if missing := [name for name in by if name not in manifest.fields]:
                raise PipelineError(
                    [Problem(f"{manifest.ref} has no field {missing[0]!r}", hint=did_you_mean(missing[0], manifest.fields))]
                )
        keys = _keys(tables, by)
        own, other = _joined(keys, (own, other))
    common = np.intersect1d(*keys)
    if not len(common):
        every = np.arange(first.rows), np.arange(second.rows)
        return Matched(every[0], own, every[1], other, paired=False)
    left, right = (np.flatnonzero(np.isin(each, common)) for each in keys)
    return Matched(left, own[left], right, other[right], paired=True)


def _keys(tables: Sequence[pa.Table], by: Sequence[str]) -> tuple[Clusters, Clusters]:
    """The number of each row's key; equal keys have the same number."""
    import numpy as np

    numbers: dict[str, int] = {}
    found = []
    for table in tables:
        rows = table.select(list(by)).to_pylist()
        found.append(
            np.asarray(
                [numbers.setdefault(json.dumps(row, sort_keys=True, default=str), len(numbers)) for row in rows], np.int64
            )
        )
    return found[0], found[1]


def _joined(keys: tuple[Clusters, Clusters], groups: tuple[Clusters, Clusters]) -> tuple[Clusters, Clusters]:
    """Clusters in which rows with the same key, and rows with the same source row, are together."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    key, group = np.concatenate(keys), np.concatenate(groups)
    size = int(key.max(initial=-1)) + 1
    end = size + int(group.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(key), np.int8), (key, group + size)), shape=(end, end))
    _, labels = connected_components(graph, directed=False)
    return labels[keys[0]].astype(np.int64), labels[keys[1]].astype(np.int64)


def _shown(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)
