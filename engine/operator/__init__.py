"""What an author of operators needs; how operators are declared and found."""

from engine.operator.context import Context, Reject
from engine.operator.declaration import SINGLE, Batch, Counters, Operator, Table, operator
from engine.provenance import derived
from registry import Metric, Model, Record, Report, StoredFile

__all__ = [
    "SINGLE",
    "Batch",
    "Context",
    "Counters",
    "Metric",
    "Model",
    "Operator",
    "Record",
    "Reject",
    "Report",
    "StoredFile",
    "Table",
    "derived",
    "operator",
]
