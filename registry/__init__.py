"""The typed dataset registry: immutable versions, lineage as data, SQL. Knows neither the engine nor its operators."""

from registry.catalog import Catalog, LockedError
from registry.columns import UnsupportedTypeError
from registry.manifest import DataObject, Draft, Manifest, Metric, SideObject, StepRun, VersionRef
from registry.query import Answer, QueryError, Session
from registry.record import Artifact, IncompatibleError, Model, Record, Report, StoredFile
from registry.registry import Registry
from registry.store import CorruptError, ObjectStore

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
