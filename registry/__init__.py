"""The typed dataset registry: immutable versions, lineage as data, SQL. Knows neither the engine nor its operators."""

from registry.catalog.catalog import Catalog, LockedError
from registry.catalog.manifest import DataObject, Draft, Manifest, Metric, SideObject, StepRun, VersionRef
from registry.query.session import Answer, QueryError, Session
from registry.records.columns import UnsupportedTypeError
from registry.records.record import Artifact, IncompatibleError, Model, Record, Report, StoredFile
from registry.registry import Registry
from registry.storage.objects import CorruptError, ObjectStore

__all__ = [
    "Answer",
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
    "Record",
    "Registry",
    "Report",
    "Session",
    "SideObject",
    "StepRun",
    "StoredFile",
    "UnsupportedTypeError",
    "VersionRef",
]
