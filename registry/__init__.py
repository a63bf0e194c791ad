"""The typed dataset registry: immutable versions, lineage as data, SQL. Knows neither the engine nor its operators."""

import importlib
from typing import TYPE_CHECKING, Any

from registry.catalog.manifest import DataObject, Draft, Hit, Manifest, Metric, SideObject, StepRun, VersionRef
from registry.errors import CorruptError, IncompatibleError, LockedError, QueryError, RegistryError, UnsupportedTypeError
from registry.records.artifacts import Artifact, Model, Report, StoredFile
from registry.records.record import Record
from registry.storage.objects import ObjectStore

if TYPE_CHECKING:
    from registry.catalog.catalog import Catalog
    from registry.overlay import Overlay
    from registry.query.session import QueryResult, Session
    from registry.registry import Registry

__all__ = [
    "Artifact",
    "Catalog",
    "CorruptError",
    "DataObject",
    "Draft",
    "Hit",
    "IncompatibleError",
    "LockedError",
    "Manifest",
    "Metric",
    "Model",
    "ObjectStore",
    "Overlay",
    "QueryError",
    "QueryResult",
    "Record",
    "Registry",
    "RegistryError",
    "Report",
    "Session",
    "SideObject",
    "StepRun",
    "StoredFile",
    "UnsupportedTypeError",
    "VersionRef",
]

_IN = {
    "QueryResult": "registry.query.session",
    "Catalog": "registry.catalog.catalog",
    "Overlay": "registry.overlay",
    "Registry": "registry.registry",
    "Session": "registry.query.session",
}
"""What imports DuckDB is imported when it is first used: record types do without."""


def __getattr__(name: str) -> Any:
    if name not in _IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_IN[name]), name)
    return value
