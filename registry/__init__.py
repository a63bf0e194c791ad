"""The typed dataset registry: immutable versions, lineage as data, SQL. Knows neither the engine nor its operators."""

from registry.catalog.catalog import Catalog
from registry.catalog.manifest import DataObject, Draft, Manifest, Metric, SideObject, StepRun, VersionRef
from registry.errors import CorruptError, IncompatibleError, LockedError, QueryError, RegistryError, UnsupportedTypeError
from registry.query.session import QueryResult, Session
from registry.records.artifacts import Artifact, Model, Report, StoredFile
from registry.records.record import Record
from registry.registry import Registry
from registry.storage.objects import ObjectStore

__all__ = [
    "Artifact",
    "Catalog",
    "CorruptError",
    "DataObject",
    "Draft",
    "IncompatibleError",
    "LockedError",
    "Manifest",
    "Metric",
    "Model",
    "ObjectStore",
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
