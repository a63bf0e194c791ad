"""Plans sources: finds their versions in the registry, or reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.errors import EngineError
from engine.jobs.messages import InputVersion
from engine.pipeline.graph import Pipeline, Source
from engine.planning.inputs import version_of
from engine.planning.remembered import recall, remember
from engine.planning.results import SourcePlan
from engine.sources import ingest
from engine.sources.exclusions import digest
from engine.sources.inferred_types import changed_fields
from engine.sources.recognition import format_of_files
from engine.spec.variant_names import split_name
from registry import DataObject, Draft, Manifest, ObjectStore, Registry, VersionRef
from registry.catalog.manifest import Count
from registry.records.described import described
from registry.records.schema import fields_of_type
from registry.storage.checked_json import canonical_json
from registry.storage.ids import Sha256

if TYPE_CHECKING:
    from engine.sources.files.growth import Continued

SOURCE = "source"
"""The `op` of external datasets in the registry."""

KnownVersions = Mapping[str, Sequence[str]]
"""Ids of versions by step key. Some may be removed meanwhile, and others added."""

Rows = Literal["unread", "stored", "read"]
"""What a plan needs of a source that is no version yet: only what an earlier plan found out about its rows; these rows as well,
in the registry's store; or to read them now."""


class Reading(BaseModel):
    """What a plan needs to know of a source that was read. The objects, with its rows and images, may be gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_id: Sha256
    data: tuple[DataObject, ...]
    images: tuple[DataObject, ...]
    rejected: Count
    ignored: dict[str, int]
    format: str | None

    def is_in(self, store: ObjectStore) -> bool:
        """Whether the objects are there."""
        return all(store.has(each.sha256, each.bytes) for each in (*self.data, *self.images))

    def plan(self, source: Source, name: str, registry: Registry) -> SourcePlan:
        """The plan of the source; `name` is that of its versions."""
        made = InputVersion(ref=VersionRef(name=name, version=0, content_id=self.content_id), data=self.data)
        return SourcePlan(
            source.name,
            "READ",
            made.rows,
            made,
            rejected=self.rejected,
            ignored=self.ignored,
            inferred=_inferred(source),
            changed=_changed(source, name, registry),
            format=self.format,
        )


def source_name(pipeline: Pipeline, source: str) -> str:
    """The name of a source's versions."""
    return f"{pipeline.spec.name}/{source}"


def plan_source(
    pipeline: Pipeline, source: Source, registry: Registry, known: KnownVersions | None = None, rows: Rows = "read"
) -> SourcePlan:
    """Find a source's version, or read it.

    Args:
        known: versions to look at first. If the source's is not among them, the registry is asked.
        rows: if it is not `read`, the plan may be what an earlier plan read, and then it has no draft.
    """
    name = source_name(pipeline, source.name)
    base_dir, seed = pipeline.file.parent, pipeline.seed_of(source.name)
    excluded = pipeline.excluded.get(name, frozenset())
    row_format = format_of_files(source.spec, source.record, base_dir)
    identity = ingest.identity(source.spec, source.record, base_dir, seed, excluded, row_format)
    if identity is not None and (found := _source_hit(name, ingest.source_key(identity), registry, known)):
        return _hit(source, found, row_format.name if row_format else None)
    # More than the step key has decides whether the rows are accepted, such as `allow_empty`.
    key = {"identity": identity, "spec": source.spec.model_dump_json()}
    before = recall(Reading, key) if identity is not None and rows != "read" else None
    if before and (rows == "unread" or before.is_in(registry.store)):
        return before.plan(source, name, registry)
    grown = _continued(name, source, base_dir, identity, registry) if identity is not None else None
    read = ingest.ingest(source.name, source.spec, source.record, base_dir, seed, registry.store, excluded, grown, row_format)
    if identity is None:
        identity = {"content": read.content_id, "spec": source.spec.model_dump(mode="json")}
        identity |= {"excluded": digest(excluded)} if excluded else {}
        if found := _source_hit(name, ingest.source_key(identity), registry):
            return _hit(source, found, read.format)
    document = {SOURCE: identity} | ({"reached": asdict(read.reached)} if read.reached else {})
    if identity != (ingest.identity(source.spec, source.record, base_dir, seed, excluded, row_format) or identity):
        raise EngineError(f"the files of dataset {source.name!r} changed while they were read; run again")
    draft = Draft(
        name=name,
        kind=source.record.registry_kind,
        type=source.record.type_name(),
        fields=fields_of_type(source.record),
        content_id=read.content_id,
        pipeline=pipeline.spec.name,
        step=split_name(source.name)[1],
        op=SOURCE,
        output="",
        step_key=ingest.source_key(identity),
        key_object=store_document(registry, document),
        data=read.data,
        side=read.side,
        attachments=read.images,
        rows_in=read.rows + read.rejected,
        rejected=read.rejected,
        files=ingest.files_of(source.spec, base_dir),
    )
    reading = Reading(
        content_id=read.content_id,
        data=read.data,
        images=read.images,
        rejected=read.rejected,
        ignored=dict(read.ignored),
        format=read.format,
    )
    if rows != "read" and key["identity"] is not None:
        remember(reading, key)
    return replace(reading.plan(source, name, registry), draft=draft)


def _hit(source: Source, found: Manifest, row_format: str | None) -> SourcePlan:
    made = version_of(found)
    return SourcePlan(source.name, "HIT", found.rows, made, manifest=found, inferred=_inferred(source), format=row_format)


def _inferred(source: Source) -> str:
    """The type of a source, for the user, if the pipeline file does not name it."""
    return "" if source.spec.type else ", ".join(f"{field.name}: {field.type}" for field in described(source.record).fields)


def _changed(source: Source, name: str, registry: Registry) -> tuple[str, ...]:
    """How the fields of a source without a type differ from those of its newest version."""
    before = None if source.spec.type else registry.newest(name)
    if before is None:
        return ()
    return tuple(changed_fields(before.fields, fields_of_type(source.record)))


def _source_hit(name: str, step_key: str, registry: Registry, known: KnownVersions | None = None) -> Manifest | None:
    def hit(versions: Iterable[Manifest]) -> Manifest | None:
        return next((each for each in versions if each.name == name and registry.intact(each)), None)

    return hit(registry.kept((known or {}).get(step_key, ()))) or hit(registry.find_step(step_key))


def _continued(name: str, source: Source, base_dir: Path, identity: Mapping[str, Any], registry: Registry) -> Continued | None:
    """What a source can reuse of its newest version, if it is a file that grew."""
    before = registry.newest(name)
    if before is None or before.op != SOURCE:
        return None
    from engine.sources.files.growth import continued

    # Looked up by its key, so that it is kept while this run lasts.
    found = _source_hit(name, before.step_key, registry)
    return continued(source.spec, source.record, base_dir, identity, found, registry.store) if found else None


def store_document(registry: Registry, document: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> DataObject:
    """Store a key document (with the source code that it hashes) as an object, for `plan --why` and for human readers."""
    stored = registry.store.put_bytes(canonical_json({**document, "sources": dict(sources or {})}))
    return DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes)
