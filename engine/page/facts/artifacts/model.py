"""A version with measurements (a model, a calibration or a report): its settings, training data and evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.page.facts.artifacts.measures import Measure, Measures, measures, with_intervals
from engine.page.facts.datasets.pictures import pictures_of
from engine.page.facts.excerpts import excerpt
from engine.page.sessions import Reader
from registry import Manifest
from registry.errors import RegistryError
from registry.lineage.targets import Version

_EXPOSURE = """
    select dataset, dataset_version, count(*)::bigint, sum(times_seen)::bigint, min(times_seen)::bigint, max(times_seen)::bigint
    from training_exposure where model = ? and model_version = ? group by all order by all
"""
_MOST_MEASURES = 200
"""Measures of an evaluation that are shown side by side."""


@dataclass(frozen=True)
class Setting:
    """A setting of a training as it was resolved; `name` is its path in the configuration."""

    name: str
    value: str


@dataclass(frozen=True)
class Exposure:
    """The rows of a dataset that a training saw.

    Args:
        size: the number of rows of the dataset; None if it has been removed.
        rows: how many of them the training saw.
        times: how often it saw rows, in total.
        least, most: how often it saw a single row.
    """

    version: Version
    size: int | None
    rows: int
    times: int
    least: int
    most: int


@dataclass(frozen=True)
class Evaluation:
    """Versions of one step on the same data by different models, side by side.

    Args:
        op: the operator that evaluated.
        data: the data that it was evaluated on.
        versions: by column.
        labels: the model of each column.
        lines: (metric, slice) and a measure for each column, None where it was not reported.
        left_out: lines that are not shown.
    """

    op: str
    data: tuple[Version, ...]
    versions: tuple[Version, ...]
    labels: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[Measure | None, ...]], ...]
    left_out: int = 0


@dataclass(frozen=True)
class Stored:
    """A file of a version."""

    name: str
    bytes: int


@dataclass(frozen=True)
class ArtifactFacts:
    """A version with measurements.

    Args:
        about: the short fields of its row, by name.
        texts: its long fields.
        settings: its configuration as it was resolved.
        notes: files and facts that could not be read.
        pictures: the data URLs of the pictures that the text of a report may name, by file name.
    """

    about: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, Any], ...]
    settings: tuple[Setting, ...]
    measures: Measures
    exposure: tuple[Exposure, ...]
    evaluations: tuple[Evaluation, ...]
    files: tuple[Stored, ...]
    notes: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


def artifact_facts(reader: Reader, manifest: Manifest) -> ArtifactFacts:
    """The measurements of a version."""
    session = reader.session
    version = Version(manifest.name, manifest.version)
    notes: list[str] = []
    row: Mapping[str, Any] = {}
    if manifest.kind != "dataset" and manifest.rows:
        try:
            row = session.records_at(version, [0])[0]
        except (RegistryError, OSError) as error:
            notes.append(str(error))
    config, about, texts = _about(row)
    return ArtifactFacts(
        about=about,
        texts=texts,
        settings=tuple(_flat(config)),
        measures=measures(_metrics_of(reader, manifest)),
        exposure=_exposure(reader, version, notes) if manifest.kind == "model" else (),
        evaluations=tuple(_evaluations(reader, version)),
        files=tuple(Stored(str(each["name"]), int(each["bytes"])) for each in row.get("files") or ()),
        notes=tuple(notes),
        pictures=pictures_of(row.get("files") or (), reader.registry.store) if manifest.kind == "report" else {},
    )


def _metrics_of(reader: Reader, manifest: Manifest) -> tuple[Any, ...]:
    """The metrics of the step, which are listed with its first output."""
    if manifest.metrics:
        return manifest.metrics
    found = reader.session.ask(
        "select distinct m.name, m.version from metrics m join versions v using (name, version) "
        "where v.run_id = ? and v.step = ? and v.variant = ? and m.name like ? order by all limit 1",
        [manifest.run_id, manifest.step, manifest.variant, f"{manifest.pipeline}/%"],
    ).rows
    return reader.session.manifest(*found[0]).metrics if found else ()


_LONG_FIELD = 160


def _about(row: Mapping[str, Any]) -> tuple[Any, tuple[tuple[str, str], ...], tuple[tuple[str, Any], ...]]:
    """The configuration of an artifact's row, its short fields, and its long ones."""
    config: Any = {}
    short, long = [], []
    for name, value in row.items():
        if name == "files" or value in (None, [], ""):
            continue
        if name == "config" and isinstance(value, str):
            try:
                config = json.loads(value)
                continue
            except (ValueError, RecursionError):
                pass  # shown as the text that it is
        text = excerpt(f"{value:.6g}" if isinstance(value, float) else value)
        if len(text.text) <= _LONG_FIELD and "\n" not in text.text:
            short.append((name, text.text))
        else:
            long.append((name, value))
    return config, tuple(short), tuple(long)


def _flat(config: Any, path: str = "") -> list[Setting]:
    """Every value of a configuration, by its path."""
    if isinstance(config, dict) and config:
        return [line for name, value in config.items() for line in _flat(value, f"{path}.{name}" if path else str(name))]
    return [Setting(path, excerpt(config, 2000).text)] if path else []


def _exposure(reader: Reader, version: Version, notes: list[str]) -> tuple[Exposure, ...]:
    try:
        found = reader.session.ask(_EXPOSURE, [*version]).rows
    except RegistryError as error:
        notes.append(str(error))
        return ()
    facts = reader.session.lineage.facts
    return tuple(
        Exposure(of, facts[of].rows if of in facts else None, *numbers)
        for name, number, *numbers in found
        for of in (Version(name, number),)
    )


def _evaluations(reader: Reader, model: Version) -> list[Evaluation]:
    """Versions with metrics that the model helped to make, next to those of the same operators and data with other models."""
    session = reader.session
    graph = session.lineage.graph
    measured = set(session.ask("select distinct name, version from metrics").rows)
    found: dict[tuple[str, tuple[Version, ...]], list[Version]] = {}
    for link in graph.links(model, "down"):
        if not link.model or tuple(link.child) not in measured:
            continue
        op, data = _what(reader, link.child)
        if (op, data) in found or not data:
            continue
        # The others with the same data: children of its first input with the same operator and inputs.
        others = {each.child for each in graph.links(data[0], "down") if tuple(each.child) in measured}
        found[op, data] = sorted(each for each in others if each == link.child or _what(reader, each) == (op, data))
    return [_side_by_side(reader, op, data, versions) for (op, data), versions in found.items()]


def _what(reader: Reader, version: Version) -> tuple[str, tuple[Version, ...]]:
    """The operator that made a version, and the data."""
    links = reader.session.lineage.graph.links(version, "up")
    data = tuple(sorted({link.parent for link in links if not link.model}))
    try:
        return reader.session.manifest(*version).op, data
    except (RegistryError, OSError):
        return "", ()


def _side_by_side(reader: Reader, op: str, data: tuple[Version, ...], versions: list[Version]) -> Evaluation:
    by_column = [
        {(each.metric, each.slice): each for each in with_intervals(reader.session.manifest(*version).metrics)}
        for version in versions
    ]
    keys = list(dict.fromkeys(key for column in by_column for key in column))
    lines = tuple((metric, part, tuple(column.get((metric, part)) for column in by_column)) for metric, part in keys)
    # An evaluation is made for the metrics that have an interval.
    ordered = sorted(lines, key=lambda line: not any(each and each.low is not None for each in line[2]))
    return Evaluation(
        op,
        data,
        tuple(versions),
        tuple(_label(reader, each) for each in versions),
        tuple(ordered[:_MOST_MEASURES]),
        max(0, len(ordered) - _MOST_MEASURES),
    )


def _label(reader: Reader, version: Version) -> str:
    """The model that made a version, or else its step."""
    links = [link.parent for link in reader.session.lineage.graph.links(version, "up") if link.model]
    return ", ".join(map(str, links)) or reader.session.lineage.facts[version].step
