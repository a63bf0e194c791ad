"""The typed dataset registry: immutable versions, lineage as data, SQL. Knows neither the engine nor its operators."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.catalog.catalog import Catalog
    from registry.catalog.manifest import DataObject, Draft, Hit, Manifest, Metric, ModelUsage, SideObject, StepRun, VersionRef
    from registry.errors import CorruptError, IncompatibleError, LockedError, QueryError, RegistryError, UnsupportedTypeError
    from registry.overlay import Overlay
    from registry.query.result import QueryResult
    from registry.query.session import Session
    from registry.records.artifacts import Artifact, Model, Report, StoredFile
    from registry.records.record import Record
    from registry.registry import Registry
    from registry.reviews.decisions import Decision, ReviewTask
    from registry.storage.objects import ObjectStore

__all__ = [
    "Artifact",
    "Catalog",
    "CorruptError",
    "DataObject",
    "Decision",
    "Draft",
    "Hit",
    "IncompatibleError",
    "LockedError",
    "Manifest",
    "Metric",
    "Model",
    "ModelUsage",
    "ObjectStore",
    "Overlay",
    "QueryError",
    "QueryResult",
    "Record",
    "Registry",
    "RegistryError",
    "Report",
    "ReviewTask",
    "Session",
    "SideObject",
    "StepRun",
    "StoredFile",
    "UnsupportedTypeError",
    "VersionRef",
]

_IN = {
    "Artifact": "registry.records.artifacts",
    "Catalog": "registry.catalog.catalog",
    "CorruptError": "registry.errors",
    "DataObject": "registry.catalog.manifest",
    "Decision": "registry.reviews.decisions",
    "Draft": "registry.catalog.manifest",
    "Hit": "registry.catalog.manifest",
    "IncompatibleError": "registry.errors",
    "LockedError": "registry.errors",
    "Manifest": "registry.catalog.manifest",
    "Metric": "registry.catalog.manifest",
    "Model": "registry.records.artifacts",
    "ModelUsage": "registry.catalog.manifest",
    "ObjectStore": "registry.storage.objects",
    "Overlay": "registry.overlay",
    "QueryError": "registry.errors",
    "QueryResult": "registry.query.result",
    "Record": "registry.records.record",
    "Registry": "registry.registry",
    "RegistryError": "registry.errors",
    "Report": "registry.records.artifacts",
    "ReviewTask": "registry.reviews.decisions",
    "Session": "registry.query.session",
    "SideObject": "registry.catalog.manifest",
    "StepRun": "registry.catalog.manifest",
    "StoredFile": "registry.records.artifacts",
    "UnsupportedTypeError": "registry.errors",
    "VersionRef": "registry.catalog.manifest",
}
"""Each name is imported when it is first used: record types do without DuckDB, and `engine --help` without pydantic."""


def __getattr__(name: str) -> Any:
    if name not in _IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_IN[name]), name)
    return value
